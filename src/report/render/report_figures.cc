// QuantizationReport from a report.
#include <metal_marlin/report.h>

#include "core/border.h"
#include "records/options.h"

namespace metal_marlin {
namespace {

// Product of a shape, of a file that anybody may have written: what overflows counts as nothing.
int64_t elements(const std::vector<int64_t>& shape) {
  int64_t count = shape.empty() ? 0 : 1;
  for (const int64_t d : shape) {
    if (d < 0 || __builtin_mul_overflow(count, d, &count)) count = 0;
  }
  return count;
}

}  // namespace

QuantizationReport quantization_report(const Report& report) try {
  QuantizationReport out;
  const OptionValues& options = report.options;
  out.model_path = report.input.path;
  out.bits = static_cast<int>(option<int64_t>(options, "bits").value_or(4));
  out.formats = option<std::vector<std::string>>(options, "formats").value_or(std::vector<std::string>());
  const std::string method = option<std::string>(options, "method").value_or("");
  const bool fast = option<std::string>(options, "effort") == "fast";
  // Without error feedback each weight is rounded by itself.
  const bool feedback =
      option<bool>(options, "error_feedback").value_or(method == "gptq" || (method == "awq" && !fast));
  out.actorder = feedback && option<bool>(options, "act_order").value_or(false);
  double output = 0;
  int64_t measured = 0;
  for (const LinearRecord& l : report.linears) {
    QuantizationLayerReport& layer = out.layers.emplace_back();
    layer.name = l.name;
    layer.shape = l.shape;
    layer.group_size = l.group_size.value_or(0);
    layer.bits = static_cast<int>(l.bits.value_or(out.bits));
    layer.method = l.method;
    layer.weight_error = l.weight_error;
    layer.output_error = l.output_error;
    if (layer.output_error) {
      output += *layer.output_error;
      ++measured;
    }
    if (__builtin_add_overflow(out.quantized_params, elements(l.shape), &out.quantized_params))
      out.quantized_params = 0;
  }
  out.quantized_layers = std::ssize(out.layers);
  out.skipped_layers = std::ssize(report.skipped);
  if (!out.layers.empty()) out.group_size = out.layers.front().group_size;
  if (measured > 0) out.mean_output_error = output / static_cast<double>(measured);
  const ModelRecord& model = report.model;
  out.total_params = model.parameters;
  out.bits_per_weight = model.bits_per_weight;
  if (model.bytes > 0 && model.source_bytes > 0)
    out.compression_ratio = static_cast<double>(model.source_bytes) / static_cast<double>(model.bytes);
  out.kl_divergence = model.kl_divergence.mean;
  return out;
} catch (...) {
  rethrow_as_error("quantization_report");
}

}  // namespace metal_marlin

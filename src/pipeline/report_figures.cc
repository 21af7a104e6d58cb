// QuantizationReport from report.json.
#include <metal_marlin/report.h>

#include <nlohmann/json.hpp>

#include "core/border.h"
#include "pipeline/report_check.h"

namespace metal_marlin {
namespace {

using nlohmann::json;

double number_or(const json& object, const char* key, double otherwise) {
  const auto it = object.find(key);
  return it != object.end() && it->is_number() ? it->get<double>() : otherwise;
}

int64_t integer_or(const json& object, const char* key, int64_t otherwise) {
  const auto it = object.find(key);
  return it != object.end() && it->is_number_integer() ? it->get<int64_t>() : otherwise;
}

std::string text_or(const json& object, const char* key) {
  const auto it = object.find(key);
  return it != object.end() && it->is_string() ? it->get<std::string>() : std::string();
}

const json& member(const json& object, const char* key) {
  static const json nothing = json::object();
  const auto it = object.find(key);
  return it != object.end() && it->is_object() ? *it : nothing;
}

}  // namespace

QuantizationReport quantization_report(const std::string& report_json) try {
  const json report = parse_report(report_json, "report");
  const json& options = member(report, "options");
  const json& model = member(report, "model");
  QuantizationReport out;
  out.model_path = text_or(member(report, "input"), "path");
  out.bits = static_cast<int>(integer_or(options, "bits", 4));
  if (options.contains("formats") && options["formats"].is_array()) {
    for (const json& f : options["formats"]) {
      if (f.is_string()) out.formats.push_back(f.get<std::string>());
    }
  }
  const std::string method = text_or(options, "method");
  bool feedback = method == "gptq" ||
                  (method == "awq" && text_or(options, "effort") != "fast");  // others round each weight by itself
  if (options.contains("error_feedback") && options["error_feedback"].is_boolean())
    feedback = options["error_feedback"].get<bool>();
  if (options.contains("act_order") && options["act_order"].is_boolean())
    out.actorder = feedback && options["act_order"].get<bool>();
  double output = 0;
  int64_t measured = 0;
  for (const json& l : report["linears"]) {
    QuantizationLayerReport layer;
    layer.name = text_or(l, "name");
    int64_t count = 1;
    if (l.contains("shape") && l["shape"].is_array()) {
      for (const json& d : l["shape"]) {
        if (d.is_number_integer()) layer.shape.push_back(d.get<int64_t>());
      }
    }
    // Shapes of a file that anybody may have written: a product that overflows counts as nothing.
    for (const int64_t d : layer.shape) {
      if (d < 0 || __builtin_mul_overflow(count, d, &count)) count = 0;
    }
    layer.group_size = integer_or(l, "group_size", 0);
    layer.bits = static_cast<int>(integer_or(l, "bits", out.bits));
    layer.method = text_or(l, "method");
    layer.weight_error = number_or(l, "weight_error", 0);
    layer.output_error = number_or(l, "output_error", -1);
    if (layer.output_error >= 0) {
      output += layer.output_error;
      ++measured;
    }
    if (__builtin_add_overflow(out.quantized_params, layer.shape.empty() ? 0 : count, &out.quantized_params))
      out.quantized_params = 0;
    out.layers.push_back(std::move(layer));
  }
  out.quantized_layers = static_cast<int64_t>(out.layers.size());
  if (report.contains("skipped") && report["skipped"].is_array())
    out.skipped_layers = static_cast<int64_t>(report["skipped"].size());
  if (!out.layers.empty()) out.group_size = out.layers.front().group_size;
  if (measured > 0) out.mean_output_error = output / static_cast<double>(measured);
  out.total_params = integer_or(model, "parameters", 0);
  out.bits_per_weight = number_or(model, "bits_per_weight", 0);
  const double bytes = number_or(model, "bytes", 0);
  const double source = number_or(model, "source_bytes", 0);
  if (bytes > 0 && source > 0) out.compression_ratio = source / bytes;
  out.kl_divergence = number_or(member(model, "kl_divergence"), "mean", -1);
  return out;
} catch (...) {
  rethrow_as_error("quantization_report");
}

}  // namespace metal_marlin

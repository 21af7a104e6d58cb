#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "pack/bit_runs.h"
#include "write/format_writers.h"

namespace metal_marlin {
namespace {

// A module's name as a pattern that matches it alone.
std::string exact_pattern(const std::string& module) {
  std::string out(1, '^');
  for (const char c : module) {
    if (c == '.') out.push_back('\\');
    out.push_back(c);
  }
  out.push_back('$');
  return out;
}

}  // namespace

std::string GptqWriter::refusal(int64_t out_features, int64_t in_features, int64_t, int bits) const {
  // 8 also where fewer would do: readers' kernels work on eight channels.
  const int64_t run = std::max<int64_t>(8, run_codes(bits));
  if (in_features % run != 0) return fmt::format("in_features {} is not a multiple of {}", in_features, run);
  if (out_features % run != 0) return fmt::format("out_features {} is not a multiple of {}", out_features, run);
  return {};
}

std::span<const int> GptqWriter::widths() const noexcept { return gptq_widths(version_); }

std::vector<TensorInfo> GptqWriter::parts(const QuantizedLinear& l) const {
  const int64_t groups = (l.in_features + l.group_size - 1) / l.group_size;
  return {{"qweight", DType::kI32, {l.in_features / run_codes(l.bits) * run_words(l.bits), l.out_features}},
          {"qzeros", DType::kI32, {groups, l.out_features / run_codes(l.bits) * run_words(l.bits)}},
          {"scales", DType::kF16, {groups, l.out_features}},
          {"g_idx", DType::kI32, {l.in_features}}};
}

PackedTensor GptqWriter::pack(const QuantizedTensor& tensor, const std::string& name) const {
  return pack_gptq(tensor, name, version_);
}

DType GptqWriter::kept_type(DType stored, const CheckpointPlan& plan) const {
  return plan.keep_types ? stored : DType::kF16;
}

void GptqWriter::check(const CheckpointPlan&) const {}

std::map<std::string, std::string> GptqWriter::metadata(const CheckpointPlan&) const {
  return {{"format", "pt"}};
}

void GptqWriter::configure(const CheckpointPlan& plan, const std::vector<std::string>& kept_modules,
                           nlohmann::json& config) const {
  if (!plan.keep_types) set_model_type_f16(config);
  // The keys that GPTQModel writes, and in "meta" who made it. "method" and "format" are its newer names of
  // "quant_method" and "checkpoint_format".
  nlohmann::json q = {{"quant_method", "gptq"},
                      {"method", "gptq"},
                      {"bits", plan.bits},
                      {"group_size", plan.group_size},
                      {"desc_act", plan.act_order},
                      {"sym", plan.symmetric},
                      {"lm_head", true},
                      {"checkpoint_format", format()},
                      {"format", format()},
                      {"pack_dtype", "int32"},
                      {"meta", {{"quantizer", {"metal-marlin:" METAL_MARLIN_VERSION}}}}};
  for (const std::string& module : kept_modules) {
    if (module == plan.head) {
      q["lm_head"] = false;
    } else {
      q["dynamic"]["-:" + exact_pattern(module)] = nlohmann::json::object();
    }
  }
  const bool whole = !q.contains("dynamic");
  for (const QuantizedLinear& l : plan.quantized) {
    nlohmann::json own = nlohmann::json::object();
    if (l.bits != plan.bits) own["bits"] = l.bits;
    const int64_t usual = plan.group_size < 0 ? l.in_features : std::min(plan.group_size, l.in_features);
    if (l.group_size != usual) own["group_size"] = l.group_size;
    if (!own.empty()) q["dynamic"]["+:" + exact_pattern(module_name(l.name))] = std::move(own);
  }
  if (!whole) {
    // The same for readers that do not know "dynamic" (transformers): what is quantized, by whole names, which are right
    // for those that look for parts or ends of a name.
    nlohmann::json modules = nlohmann::json::array();
    for (const QuantizedLinear& l : plan.quantized) modules.push_back(module_name(l.name));
    q["modules_in_block_to_quantize"] = nlohmann::json::array({std::move(modules)});
  }
  config["quantization_config"] = std::move(q);
}

std::map<std::string, std::string> GptqWriter::more_files(const nlohmann::json& config) const {
  return {{"quantize_config.json", config.at("quantization_config").dump(2) + "\n"}};
}

}  // namespace metal_marlin

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <version_text.h>
#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "pack/bit_runs.h"
#include "write/format_writers.h"

namespace metal_marlin {
namespace {

// Returns a pattern that matches only this module's name.
std::string exact_pattern(const std::string& module) {
  std::string out(1, '^');
  for (const char c : module) {
    if (c == '.') out.push_back('\\');
    out.push_back(c);
  }
  out.push_back('$');
  return out;
}

// Returns the name of the merged projection under which engines (vLLM, SGLang) look for this one; empty where they do
// not merge it.
std::string merged_module(const std::string& module) {
  constexpr std::pair<const char*, const char*> kMerged[] = {{"q_proj", "qkv_proj"},
                                                             {"k_proj", "qkv_proj"},
                                                             {"v_proj", "qkv_proj"},
                                                             {"gate_proj", "gate_up_proj"},
                                                             {"up_proj", "gate_up_proj"}};
  const size_t dot = module.rfind('.');
  if (dot == std::string::npos) return {};
  for (const auto& [part, merged] : kMerged) {
    if (module.compare(dot + 1, std::string::npos, part) == 0)
      return fmt::format("{}.{}", module.substr(0, dot), merged);
  }
  return {};
}

// GPTQModel's "dynamic": the settings of single modules that differ from the rest, by patterns of their names.
class Dynamic {
 public:
  // sign "-:": not quantized; "+:": with these settings; "": as the rest.
  void add(const std::string& sign, const std::string& module, const nlohmann::json& settings) {
    if (!sign.empty()) rules_[sign + exact_pattern(module)] = settings;
    if (const std::string merged = merged_module(module); !merged.empty()) merged_[merged].emplace_back(sign, settings);
  }
  // Adds rules for merged modules whose parts are alike.
  nlohmann::json rules() const {
    nlohmann::json out = rules_;
    for (const auto& [name, parts] : merged_) {
      const auto& [sign, settings] = parts.front();
      const bool alike = std::all_of(parts.begin(), parts.end(), [&](const auto& p) { return p == parts.front(); });
      if (alike && !sign.empty()) out[sign + exact_pattern(name)] = settings;
    }
    return out;
  }

 private:
  nlohmann::json rules_ = nlohmann::json::object();
  std::map<std::string, std::vector<std::pair<std::string, nlohmann::json>>> merged_;
};

}  // namespace

std::string GptqWriter::refusal(int64_t out_features, int64_t in_features, int64_t, int bits) const {
  // 8 is required even where fewer would do, because the readers' kernels work on eight channels.
  const int64_t run = std::max<int64_t>(8, run_codes(bits));
  if (in_features % run != 0) return fmt::format("in_features {} is not a multiple of {}", in_features, run);
  if (out_features % run != 0) return fmt::format("out_features {} is not a multiple of {}", out_features, run);
  return {};
}

std::span<const int> GptqWriter::widths() const noexcept {
  return gptq_widths(version_);
}

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
  Dynamic dynamic;
  bool whole = true;
  for (const std::string& module : kept_modules) {
    if (module == plan.head) {
      q["lm_head"] = false;
    } else {
      dynamic.add("-:", module, nlohmann::json::object());
      whole = false;
    }
  }
  for (const QuantizedLinear& l : plan.quantized) {
    nlohmann::json own = nlohmann::json::object();
    if (l.bits != plan.bits) own["bits"] = l.bits;
    const int64_t usual = plan.group_size < 0 ? l.in_features : std::min(plan.group_size, l.in_features);
    if (l.group_size != usual) own["group_size"] = l.group_size;
    dynamic.add(own.empty() ? "" : "+:", module_name(l.name), own);
  }
  if (nlohmann::json rules = dynamic.rules(); !rules.empty()) q["dynamic"] = std::move(rules);
  if (!whole) {
    // For readers that do not know "dynamic" (transformers), this lists the quantized modules. Their full names also
    // match in readers that compare parts or ends of a name.
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

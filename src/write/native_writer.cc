#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "pack/native.h"
#include "write/format_writers.h"

namespace metal_marlin {

std::string NativeWriter::refusal(int64_t, int64_t in_features, int64_t group_size) const {
  if (in_features % 8 != 0) return fmt::format("in_features {} is not a multiple of 8", in_features);
  if (group_size > 0 && in_features % group_size != 0) {
    return fmt::format("in_features {} is not a multiple of the group size {}", in_features, group_size);
  }
  return {};
}

std::vector<TensorInfo> NativeWriter::parts(const QuantizedLinear& l) const {
  const int64_t groups = l.in_features / l.group_size;
  return {{"weight", DType::kU32, {l.in_features / 8, l.out_features}},
          {"weight.scales", DType::kF16, {groups, l.out_features}},
          {"weight.zeros", DType::kF16, {groups, l.out_features}}};
}

PackedTensor NativeWriter::pack(const QuantizedTensor& tensor, const std::string& name) const {
  return pack_native(tensor, name);
}

void NativeWriter::check(const CheckpointPlan&) const {}

std::map<std::string, std::string> NativeWriter::metadata(const CheckpointPlan& plan) const {
  nlohmann::json tensors = nlohmann::json::object();
  for (const QuantizedLinear& linear : plan.quantized) {
    nlohmann::json entry = {{"in_features", linear.in_features}, {"out_features", linear.out_features}};
    const int64_t usual = plan.group_size < 0 ? linear.in_features : plan.group_size;
    if (linear.group_size != usual) entry["group_size"] = linear.group_size;
    if (!linear.folded.empty()) entry["q_scale"] = "folded:" + linear.folded;
    tensors[linear.name] = std::move(entry);
  }
  return {{"format", "pt"},
          {"quant_type", "awq_int4"},
          {"metal_marlin.version", "1"},
          {"metal_marlin.bits", "4"},
          {"metal_marlin.group_size", std::to_string(plan.group_size)},
          {"metal_marlin.symmetric", plan.symmetric ? "true" : "false"},
          {"metal_marlin.nibble_offset", "8"},
          {"metal_marlin.q_scale_axis", "in"},
          {"metal_marlin.zeros", "zero_point_minus_8"},
          {"metal_marlin.producer", "metal-marlin " METAL_MARLIN_VERSION},
          {"metal_marlin.tensors", tensors.dump()}};
}

void NativeWriter::configure(const CheckpointPlan& plan, const std::vector<std::string>& kept_modules,
                             nlohmann::json& config) const {
  config["quantization_config"] = {
      {"quant_method", "metal_marlin"}, {"bits", 4},           {"group_size", plan.group_size},
      {"zero_point", !plan.symmetric},  {"version", "native"}, {"modules_to_not_convert", kept_modules}};
}

}  // namespace metal_marlin

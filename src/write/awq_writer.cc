#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <nlohmann/json.hpp>

#include "pack/awq_gemm.h"
#include "write/format_writers.h"

namespace metal_marlin {

std::string AwqWriter::refusal(int64_t out_features, int64_t in_features, int64_t group_size, int) const {
  if (out_features % 8 != 0) return fmt::format("out_features {} is not a multiple of 8", out_features);
  if (group_size > 0 && in_features % group_size != 0) {
    return fmt::format("in_features {} is not a multiple of the group size {}", in_features, group_size);
  }
  return {};
}

std::span<const int> AwqWriter::widths() const noexcept {
  static constexpr int kWidths[] = {4};
  return kWidths;
}

std::vector<TensorInfo> AwqWriter::parts(const QuantizedLinear& l) const {
  const int64_t groups = l.in_features / l.group_size;
  return {{"qweight", DType::kI32, {l.in_features, l.out_features / 8}},
          {"qzeros", DType::kI32, {groups, l.out_features / 8}},
          {"scales", DType::kF16, {groups, l.out_features}}};
}

PackedTensor AwqWriter::pack(const QuantizedTensor& tensor, const std::string& name) const {
  return pack_awq_gemm(tensor, name);
}

void AwqWriter::check(const CheckpointPlan& plan) const {
  require_one_grid(plan, "an AWQ checkpoint");
}

std::map<std::string, std::string> AwqWriter::metadata(const CheckpointPlan&) const {
  return {{"format", "pt"}};
}

void AwqWriter::configure(const CheckpointPlan& plan, const std::vector<std::string>& kept_modules,
                          nlohmann::json& config) const {
  set_model_type_f16(config);
  // zero_point is true for symmetric weights too. Their zeros (8) are stored, and some engines choose their fast
  // kernels by this key.
  config["quantization_config"] = {
      {"quant_method", "awq"}, {"bits", 4},         {"group_size", plan.group_size},
      {"zero_point", true},    {"version", "gemm"}, {"modules_to_not_convert", kept_modules}};
}

}  // namespace metal_marlin

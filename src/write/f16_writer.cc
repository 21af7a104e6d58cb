#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <nlohmann/json.hpp>

#include "write/format_writers.h"

namespace metal_marlin {

std::string F16Writer::refusal(int64_t, int64_t, int64_t, int) const {
  return "it holds no codes";
}

std::span<const int> F16Writer::widths() const noexcept {
  return {};
}

std::vector<TensorInfo> F16Writer::parts(const QuantizedLinear& linear) const {
  throw ArgumentError(fmt::format("{}: the format f16 holds no codes", linear.name));
}

PackedTensor F16Writer::pack(const QuantizedTensor&, const std::string& name) const {
  throw ArgumentError(fmt::format("{}: the format f16 holds no codes", name));
}

std::map<std::string, std::string> F16Writer::metadata(const CheckpointPlan&) const {
  return {{"format", "pt"}};
}

void F16Writer::check(const CheckpointPlan& plan) const {
  if (!plan.quantized.empty()) throw ArgumentError(plan.quantized.front().name + ": the format f16 holds no codes");
}

void F16Writer::configure(const CheckpointPlan&, const std::vector<std::string>&, nlohmann::json& config) const {
  set_model_type_f16(config);
}

}  // namespace metal_marlin

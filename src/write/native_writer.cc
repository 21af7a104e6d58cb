#include <fmt/format.h>

#include <version_text.h>
#include <algorithm>
#include <nlohmann/json.hpp>

#include "pack/bit_runs.h"
#include "pack/native.h"
#include "write/format_writers.h"

namespace metal_marlin {

namespace {

// Version 1 has only 4 bits. Its readers must not take other codes for 4-bit codes, hence version 2.
bool is_version_1(const CheckpointPlan& plan) {
  return plan.bits == 4 && std::all_of(plan.quantized.begin(), plan.quantized.end(),
                                       [](const QuantizedLinear& l) { return l.bits == 4; });
}

}  // namespace

std::vector<TensorInfo> native_parts(const QuantizedLinear& l, bool stored_scale) {
  const int64_t groups = l.in_features / l.group_size;
  std::vector<TensorInfo> parts = {
      {"weight", DType::kU32, {l.in_features / run_codes(l.bits) * run_words(l.bits), l.out_features}},
      {"weight.scales", DType::kF16, {groups, l.out_features}},
      {"weight.zeros", DType::kF16, {groups, l.out_features}}};
  if (stored_scale) parts.push_back({"weight.q_scale", DType::kF16, {l.in_features}});
  return parts;
}

std::map<std::string, std::string> native_metadata(const CheckpointPlan& plan, bool stored_scales) {
  nlohmann::json tensors = nlohmann::json::object();
  for (const QuantizedLinear& linear : plan.quantized) {
    nlohmann::json entry = {{"in_features", linear.in_features}, {"out_features", linear.out_features}};
    const int64_t usual = plan.group_size < 0 ? linear.in_features : plan.group_size;
    if (linear.group_size != usual) entry["group_size"] = linear.group_size;
    if (linear.bits != plan.bits) entry["bits"] = linear.bits;
    if (!linear.folded.empty()) entry["q_scale"] = "folded:" + linear.folded;
    if (stored_scales) entry["q_scale"] = "stored";
    tensors[linear.name] = std::move(entry);
  }
  std::map<std::string, std::string> out = {{"format", "pt"},
                                            {"quant_type", fmt::format("awq_int{}", plan.bits)},
                                            {"metal_marlin.bits", std::to_string(plan.bits)},
                                            {"metal_marlin.group_size", std::to_string(plan.group_size)},
                                            {"metal_marlin.symmetric", plan.symmetric ? "true" : "false"},
                                            {"metal_marlin.q_scale_axis", "in"},
                                            {"metal_marlin.producer", "metal-marlin " METAL_MARLIN_VERSION},
                                            {"metal_marlin.tensors", tensors.dump()}};
  if (is_version_1(plan)) {
    out["metal_marlin.version"] = "1";
    out["metal_marlin.nibble_offset"] = "8";
    out["metal_marlin.zeros"] = "zero_point_minus_8";
  } else {
    out["metal_marlin.version"] = "2";
    out["metal_marlin.zeros"] = "zero_point_minus_half";
  }
  return out;
}

std::string NativeWriter::refusal(int64_t, int64_t in_features, int64_t group_size, int bits) const {
  const int64_t run = run_codes(bits);
  if (in_features % run != 0) return fmt::format("in_features {} is not a multiple of {}", in_features, run);
  if (group_size > 0 && in_features % group_size != 0) {
    return fmt::format("in_features {} is not a multiple of the group size {}", in_features, group_size);
  }
  return {};
}

std::span<const int> NativeWriter::widths() const noexcept {
  return kNativeWidths;
}

PackedTensor NativeWriter::pack(const QuantizedTensor& tensor, const std::string& name) const {
  return pack_native(tensor, name);
}

void NativeWriter::check(const CheckpointPlan&) const {}

void NativeWriter::configure(const CheckpointPlan& plan, const std::vector<std::string>& kept_modules,
                             nlohmann::json& config) const {
  config["quantization_config"] = {
      {"quant_method", "metal_marlin"}, {"bits", plan.bits},   {"group_size", plan.group_size},
      {"zero_point", !plan.symmetric},  {"version", "native"}, {"modules_to_not_convert", kept_modules}};
}

}  // namespace metal_marlin

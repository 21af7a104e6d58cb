#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <nlohmann/json.hpp>

#include "pack/marlin.h"
#include "write/format_writers.h"

namespace metal_marlin {

std::string MarlinWriter::refusal(int64_t out_features, int64_t in_features, int64_t group_size, int) const {
  return marlin_refusal(out_features, in_features, group_size);
}

std::span<const int> MarlinWriter::widths() const noexcept {
  static constexpr int kWidths[] = {4};
  return kWidths;
}

std::string MarlinWriter::refusal_of(const Grid& grid) const {
  if (std::string reason = CheckpointWriter::refusal_of(grid); !reason.empty()) return reason;
  if (!grid.symmetric) return "has no zero points";
  if (grid.group_size != 128 && grid.group_size != -1) {
    return fmt::format("holds groups of 128 or of a whole row, not of {}", grid.group_size);
  }
  return {};
}

std::vector<TensorInfo> MarlinWriter::parts(const QuantizedLinear& l) const {
  return {{"B", DType::kI32, {l.in_features / 16, 2 * l.out_features}},
          {"s", DType::kF16, {l.in_features / l.group_size, l.out_features}}};
}

PackedTensor MarlinWriter::pack(const QuantizedTensor& tensor, const std::string& name) const {
  return pack_marlin(tensor, name);
}

void MarlinWriter::check(const CheckpointPlan& plan) const {
  require_one_grid(plan, "a Marlin checkpoint");
}

std::map<std::string, std::string> MarlinWriter::metadata(const CheckpointPlan&) const {
  return {{"format", "pt"}};
}

void MarlinWriter::configure(const CheckpointPlan& plan, const std::vector<std::string>& kept_modules,
                             nlohmann::json& config) const {
  set_model_type_f16(config);
  bool head = true;
  for (const std::string& module : kept_modules) head = head && module != plan.head;
  config["quantization_config"] = {{"quant_method", "marlin"},
                                   {"checkpoint_format", "marlin"},
                                   {"bits", 4},
                                   {"group_size", plan.group_size},
                                   {"sym", true},
                                   {"desc_act", false},
                                   {"lm_head", head},
                                   {"modules_to_not_convert", kept_modules}};
}

std::map<std::string, std::string> MarlinWriter::more_files(const nlohmann::json& config) const {
  return {{"quantize_config.json", config.at("quantization_config").dump(2) + "\n"}};
}

}  // namespace metal_marlin

#include "layouts/layout.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "families/config/config_reader.h"
#include "formats/gguf_blocks.h"
#include "formats/text.h"
#include "pack/group_arrays.h"

namespace metal_marlin {

std::string Layout::folder() const {
  std::string folder = name();
  std::replace(folder.begin(), folder.end(), ':', '-');
  return folder;
}

std::string Layout::refusal_of_width(int bits) const {
  return holds_width(bits) ? std::string() : fmt::format("holds {} bits, not {}", list_widths(widths()), bits);
}

std::string Layout::refusal_of(const Grid& grid) const {
  if (std::string reason = refusal_of_width(grid.bits); !reason.empty()) return reason;
  if (grid.block) return fmt::format("has no blocks of {}", ggml_type_info(*grid.block).name);
  if (grid.minimum) return "has zeros that are codes, and no minima";
  if (grid.scale_type != ScaleType::kF16) return "has scales in float16, which does not hold these";
  return {};
}

std::string Layout::refusal_of_zeros(const QuantizedTensor& t) const {
  const auto least = std::min_element(t.zeros.begin(), t.zeros.end());
  if (least == t.zeros.end() || *least >= least_zero()) return {};
  const auto at = least - t.zeros.begin();
  return fmt::format(
      "the zero of output channel {}, group {} is {}, and the format holds {} at least (it stores z - 1); use gptq_v2",
      at / t.groups(), at % t.groups(), *least, least_zero());
}

DType Layout::kept_type(DType, const LayoutPlan&) const {
  return DType::kF16;
}

std::map<std::string, std::string> Layout::metadata(const LayoutPlan&) const {
  return {{"format", "pt"}};
}

void Layout::check(const LayoutPlan&) const {}

std::map<std::string, std::string> Layout::more_files(const nlohmann::json&) const {
  return {};
}

void require_one_grid(const LayoutPlan& plan, const char* what) {
  for (const QuantizedLinear& linear : plan.quantized) {
    if (linear.bits != plan.bits) {
      throw ArgumentError(
          fmt::format("{}: {} has one number of bits, expected {}, found {}; use the native format or one number",
                      linear.name, what, plan.bits, linear.bits));
    }
    const int64_t usual = plan.group_size < 0 ? linear.in_features : plan.group_size;
    if (linear.group_size != std::min(usual, linear.in_features)) {
      throw ArgumentError(
          fmt::format("{}: {} has one group size, expected {}, found {}; use the native format or one group size",
                      linear.name, what, usual, linear.group_size));
    }
  }
}

void set_model_type_f16(nlohmann::json& config) {
  // Older readers know one of these keys, newer readers the other.
  config["torch_dtype"] = "float16";
  config["dtype"] = "float16";
  for (auto& [key, value] : config.items()) {
    if (!value.is_object() || !key.ends_with("_config")) continue;
    for (const char* name : {"torch_dtype", "dtype"}) {
      if (value.contains(name)) value[name] = "float16";
    }
  }
}

std::string refusal_of_linear(const Layout& layout, const QuantizedLinear& l) {
  if (!layout.holds_width(l.bits)) return fmt::format("it holds {} bits, not {}", list_widths(layout.widths()), l.bits);
  return layout.refusal(l.out_features, l.in_features, l.group_size, l.bits);
}

std::string module_name(const std::string& weight) {
  constexpr std::string_view kSuffix = ".weight";
  if (!weight.ends_with(kSuffix) || weight.size() == kSuffix.size()) {
    throw ArgumentError(fmt::format("{}: expected a linear's weight, a name ending in .weight", weight));
  }
  return weight.substr(0, weight.size() - kSuffix.size());
}

}  // namespace metal_marlin

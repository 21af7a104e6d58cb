#include "options/choices.h"

#include <fmt/format.h>

#include "core/enum_names.h"

namespace metal_marlin {

bool chooses_bits(const QuantizeOptions& options) {
  return options.mixed_bits || options.target_bits.has_value();
}

bool chooses_by_limit(const QuantizeOptions& options) {
  return options.mixed_bits && !options.target_bits;
}

std::string rounding_option(const QuantizeOptions& options) {
  if (options.error_feedback == false) return "--error-feedback off";
  return options.method == Method::kAwq && options.effort != Effort::kBest
             ? fmt::format("--effort {}", name_of(options.effort))
             : fmt::format("--method {}", name_of(options.method));
}

}  // namespace metal_marlin

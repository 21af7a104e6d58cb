#include "recipe/ignored_options.h"

#include "options/tables.h"
#include "recipe/presets.h"

namespace metal_marlin {

std::vector<IgnoredOption> ignored_options(const QuantizeOptions& options) {
  return ignored_of(quantize_options(), options, options_in_force(options));
}

std::vector<IgnoredOption> ignored_options(const CalibrationOptions& options) {
  return ignored_of(calibration_options(), options, options);
}

}  // namespace metal_marlin

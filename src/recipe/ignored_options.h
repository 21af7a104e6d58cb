// Options that have no effect on a run, because its method or its calibration does not use them.
#pragma once

#include <metal_marlin/quantize.h>

#include <vector>

#include "options/ignored.h"

namespace metal_marlin {

// All of them, in the order of their table.
std::vector<IgnoredOption> ignored_options(const QuantizeOptions& options);
// Of calibrate_model.
std::vector<IgnoredOption> ignored_options(const CalibrationOptions& options);

}  // namespace metal_marlin

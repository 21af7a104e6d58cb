// Checks of the options that name texts.
#pragma once

#include <metal_marlin/quantize.h>

#include <string>

namespace metal_marlin {

// ArgumentError that names the option whose value is out of range, or the sources that cannot be combined.
void check_sizes(const QuantizeOptions& options);
void check_sizes(const EvaluationOptions& options);

// "a.txt, self": the sources as the report names them.
std::string sources_text(const CalibrationOptions& options);
}  // namespace metal_marlin

// Checks of the options that name texts.
#pragma once

#include <metal_marlin/options.h>

#include <string>

namespace metal_marlin {

// ArgumentError that names the option whose value is out of range, or the sources that cannot be combined.
void check_sizes(const CalibrationOptions& options);
void check_sizes(const EvaluationOptions& options);

// "a.txt, self": the sources as the report names them.
std::string sources_text(const CalibrationOptions& options);
}  // namespace metal_marlin

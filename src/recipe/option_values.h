// The options of a run as its report lists them.
#pragma once

#include <metal_marlin/quantize.h>
#include <metal_marlin/report_records.h>

#include "recipe/recipe.h"

namespace metal_marlin {

// The options as the report lists them.
OptionValues option_values(const QuantizeOptions& options, const Recipe& recipe);

}  // namespace metal_marlin

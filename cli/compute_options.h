// --compute and --head.
#pragma once

#include <metal_marlin/compute.h>

#include "command.h"

namespace metal_marlin::cli {

// Adds the options to the current group. `generates`: whether the command generates text.
void add_compute_options(Command& command, ComputeOptions& options, bool generates);

}  // namespace metal_marlin::cli

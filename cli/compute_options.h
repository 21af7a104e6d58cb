// --compute and --head.
#pragma once

#include <metal_marlin/compute.h>

#include "command.h"

namespace metal_marlin::cli {

// `generates`: of a command that generates text. Into the group that is open.
void add_compute_options(Command& command, ComputeOptions& options, bool generates);

}  // namespace metal_marlin::cli

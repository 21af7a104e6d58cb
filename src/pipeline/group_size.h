// --group-size against the shapes of a model and what the chosen formats can hold.
#pragma once

#include <cstdint>
#include <string>

#include "source/model_source.h"

namespace metal_marlin {

struct QuantizeOptions;

// "auto": 128, 64 or 32, the first that divides the in_features of every linear that is to be quantized; else the
// number, -1 for one group per row. Linears that --skip names, and those that no group size could bring into every
// chosen format (they are skipped with a reason), have no say. ArgumentError: no number, or one that does not divide;
// the message names the linears and the sizes that work for all of them.
int64_t resolve_group_size(const ModelSource& source, const QuantizeOptions& options);

}  // namespace metal_marlin

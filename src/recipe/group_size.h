// --group-size against the shapes of a model and what the chosen formats can hold.
#pragma once

#include <cstdint>
#include <string>

#include "checkpoint/model_source.h"

namespace metal_marlin {

struct QuantizeOptions;

// Returns the group size. "auto" is the first of 128, 64 and 32 that divides the in_features of every linear that is to
// be quantized; any other text is the number itself, -1 for one group per row. Two kinds of linears are not looked at:
// those that --skip names, and those that some chosen format cannot hold with any group size (they are skipped with a
// reason). ArgumentError for no number or one that does not divide; it names the linears and the sizes that fit all.
int64_t resolve_group_size(const ModelSource& source, const QuantizeOptions& options);

}  // namespace metal_marlin

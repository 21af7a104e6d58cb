// The rows of one tensor behind those of another.
#pragma once

#include "core/values.h"

namespace metal_marlin {

// Adds the rows of `part` to `all`, which has the same grid, or is empty and becomes `part`.
void append_rows(QuantizedTensor& all, QuantizedTensor part);

}  // namespace metal_marlin

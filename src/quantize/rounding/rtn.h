// Rounding to nearest with given ranges.
#pragma once

#include "core/tensor.h"
#include "core/values.h"
#include "quantize/group_range.h"

namespace metal_marlin {

// code = clamp(rint((w - m) / S) + zero, 0, levels - 1) in float32, S the stored scale as float32, m the minimum or 0,
// a division, ties to even: bit for bit numpy's np.clip(np.rint(w / s) + z, 0, levels - 1). ArgumentError when ranges
// and weight disagree; NumericError: NaN or Inf in the weights.
QuantizedTensor quantize_rtn(const Matrix& weight, const GroupRanges& ranges, const Grid& grid);

}  // namespace metal_marlin

// Scales and zeros (or minima) per group, chosen before rounding. Scales are rounded to the grid's type here, so that
// the codes are made for the scales that are stored.
#pragma once

#include <cstdint>

#include "core/tensor.h"
#include "core/values.h"
#include "quantize/ranges.h"

namespace metal_marlin {

// Ranges of weight [out, in]. The last group may be short. `gram` [in, in] is read only by kGram (the upper half) and
// kDiagonal (the diagonal). kMse, kGram and kDiagonal try these candidates, which were chosen by accuracy measurements
// on SmolLM2 (docs/algorithms.md):
//   symmetric   S = f16(max|w| f / (levels/2 - 0.5)), f = 0.5, 0.525 .. 1.1 (25)
//   signed      also S = f16(-sign(w_max) max|w| f / (levels/2)), w_max the weight of largest magnitude
//   asymmetric  S = f16((max - min) f / (levels - 1)), f = 0.6, 0.625 .. 1.025 (18),
//               zero = round(-min f / S) + {-1, 0, 1}
//   minimum     S as asymmetric, of any min and max, m = (max + min) / 2 - (max - min) f / 2 - {-1, 0, 1} S / 2
// The first of equal candidates wins. Cost of kGram: group_size / 2 multiply-adds per weight and candidate.
// ArgumentError: grid or shapes; NumericError: NaN or Inf in the weights.
GroupRanges group_ranges(const Matrix& weight, const Grid& grid, const RangeOptions& options = {},
                         const Matrix* gram = nullptr);

// For layouts that cannot hold small zeros, on grids with zeros. Groups with a zero below `least` (those without a
// negative weight) get `least`, and a scale larger by (levels - 1 - zero) / (levels - 1 - least), so that they reach
// the same largest weight. Returns how many groups were changed.
int64_t lift_zeros(GroupRanges& ranges, const Grid& grid, int least);

}  // namespace metal_marlin

// The first scales and minima of blocks, chosen before any code.
#pragma once

#include <vector>

#include "core/tensor.h"
#include "formats/blocks/block_fields.h"
#include "quantize/blocks/segment.h"
#include "quantize/rounding/damped_gram.h"

namespace metal_marlin {

// For each segment of weight [out, in]: the scale and minimum with the least e H_gg e^T, where e are the errors of the
// segment as the factors round it. They are sought among
//   without minima   the f16 numbers nearest to +-max|w| f / L, L the largest number on either side of zero, f = 0.5,
//                    0.525 .. 1.1
//   with minima      ranges of max - min times 0.61, 0.64 .. 1.03, about the middle, moved by -1, 0, 1 thirds of a step
// and from the best of them on by the normal equations for its codes, as long as that helps. Types with integer scales
// get for each block the d and dmin whose multiples are nearest to these numbers, weighted by the diagonal of H. The
// codes are left 0.
BlockFields choose_scales(const Matrix& weight, const DampedGram& h, const BlockForm& form,
                          const std::vector<SegmentFactor>& factors);

}  // namespace metal_marlin

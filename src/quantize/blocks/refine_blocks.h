// Refines the finished numbers of blocks against the calibration loss tr(E H E^T), E = W - Wq: every code, scale,
// minimum and d, within what the type can hold. No step raises the loss (but for the rounding of float32 sums).
#pragma once

#include <vector>

#include "core/tensor.h"
#include "formats/blocks/block_fields.h"
#include "quantize/blocks/segment.h"
#include "quantize/rounding/damped_gram.h"

namespace metal_marlin {

// `passes` times over all segments, in order. What is done with a segment, while all others stay:
//   - The weights that would be best for it, were they free, are w* = Wq + R H_gg^-1, with R = E H. They are rounded
//     anew with error feedback within the segment, for some scales (and minima) near those of now. The best of these
//     takes the place of scale and codes, if it is better than they are.
//   - Scale and minimum of these codes: the solution of the normal equations, as far as it can be stored.
//   - One coordinate descent over the codes.
// After the segments of a block with integer scales, d and dmin: the normal equations with all integers fixed. About
// out in^2 multiply-adds for R at the start of a pass, and as many to keep it.
void refine_blocks(const Matrix& weight, const DampedGram& h, const BlockForm& form,
                   const std::vector<SegmentFactor>& factors, int passes, BlockFields& fields);

}  // namespace metal_marlin

// AWQ's clip search: shrinks the range of each row's group where that lowers the output error.
#pragma once

#include "core/tensor.h"
#include "core/values.h"
#include "quantize/group_range.h"

namespace metal_marlin {

struct ClipOptions {
  int steps = 20;  // shrink by 1/steps at a time
  double max_shrink =
      0.5;  // largest share that is cut off: int(max_shrink * steps) candidates, the first of which cuts nothing
  float divisor = 0;  // as RangeOptions::divisor
};

struct ClipResult {
  GroupRanges ranges;          // kAbsmax ranges of the clipped group, to round with
  std::vector<float> limits;   // [out, groups] the largest |w| that was kept; max|w| where nothing is clipped
  int64_t clipped_groups = 0;  // groups whose limit is below max|w|
};

// For i in 0 .. int(max_shrink * steps) - 1: limit = max|w| (1 - i / steps), S and zero by absmax of the group clamped
// to +-limit, e = dequantized codes - w (unclamped w); keeps the least e G_gg e^T per row and group, the first of
// equals. Follows AWQ (arXiv 2306.00978, the authors' auto_clip). The Gram block replaces its sampled inputs, so that a
// candidate's error is the mean over all calibration tokens. The published recipe does not clip q and k; leaving these
// out is up to the caller. Of gram [in, in] the upper half is read. Throws ArgumentError for grid, options or shapes,
// NumericError for NaN or Inf in the weights.
ClipResult search_clip(const Matrix& weight, const Matrix& gram, const Grid& grid, const ClipOptions& options = {});

}  // namespace metal_marlin

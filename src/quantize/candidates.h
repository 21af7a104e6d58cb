// The search over candidate ranges that group_range and clip share: per row and group, the candidate of least error
// wins.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "core/tensor.h"
#include "core/values.h"
#include "quantize/group_range.h"

namespace metal_marlin {

// A range that can be stored: an f16 scale within [kLeastScale, kLargestScale] and a zero on the grid.
struct Range {
  uint16_t scale = 0;  // f16 bits
  uint8_t zero = 0;
  bool raised = false;   // the scale asked for was below kLeastScale
  bool clamped = false;  // the scale asked for was above kLargestScale
};

// Least and largest weight of a row's group.
struct Extent {
  float min = 0;
  float max = 0;

  float magnitude() const noexcept { return max > -min ? max : -min; }
  Extent with_zero() const noexcept { return {min < 0 ? min : 0.0f, max > 0 ? max : 0.0f}; }
};

// S = f16(magnitude / divisor), zero in the middle of the grid.
Range symmetric_range(float magnitude, float divisor, int bits) noexcept;
// S = f16(span / (levels - 1)), zero = clamp(rint(-min / S) + shift, 0, levels - 1).
Range asymmetric_range(float span, float min, int shift, int bits) noexcept;

// Candidate `index` of a group; called from several threads.
using CandidateRange = std::function<Range(int index, Extent extent)>;

struct CandidateSearch {
  GroupRanges ranges;           // of the winners, counts filled
  std::vector<uint16_t> index;  // [out, groups] which candidate won
};

// Tries candidates 0 .. count - 1 on every row and group; the first of equals wins; with one candidate nothing is
// tried. gram null: sum of squared errors, else e G_gg e^T. Validates nothing.
CandidateSearch search_candidates(const Matrix& weight, const Grid& grid, const Matrix* gram, int count,
                                  const CandidateRange& candidate);

// Least and largest weight of each row's group, [out, groups].
std::vector<Extent> group_extents(const Matrix& weight, int64_t group_size);

// ArgumentError unless grid is one, weight is not empty, and gram, when given, is [in, in]; NumericError unless weight
// is finite.
void require_arguments(const Matrix& weight, const Grid& grid, const Matrix* gram);
// ArgumentError unless ranges belong to a weight of these sizes and to the grid.
void require_ranges(const GroupRanges& ranges, const Matrix& weight, const Grid& grid);

}  // namespace metal_marlin

// The search over candidate ranges that group_range and clip share: per row and group, the candidate of least error
// wins.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <vector>

#include "core/tensor.h"
#include "core/values.h"
#include "quantize/group_range.h"
#include "quantize/lanes.h"

namespace metal_marlin {

// Least and largest weight of a row's group.
struct Extent {
  float min = 0;
  float max = 0;

  float magnitude() const noexcept { return max > -min ? max : -min; }
  Extent with_zero() const noexcept { return {min < 0 ? min : 0.0f, max > 0 ? max : 0.0f}; }
};

// What a candidate asks for, one value per row of a tile.
struct Wanted {
  std::array<float, kLaneRows> scale;  // >= 0, before it is rounded to the grid's type and brought into its range
  std::array<float, kLaneRows> sign;   // 1 or -1: of the stored scale
  std::array<float, kLaneRows> low;    // asymmetric: <= 0, zero = clamp(rint(-low / S) + shift, 0, levels - 1); with a
                                       // minimum: m = low - shift S / 2
  float shift = 0;
};

// Fills `wanted` for candidate `index` of the groups with these extents; called from several threads.
using CandidateRange = std::function<void(int index, const std::array<Extent, kLaneRows>& extents, Wanted& wanted)>;

struct CandidateSearch {
  GroupRanges ranges;           // of the winners, counts filled
  std::vector<uint16_t> index;  // [out, groups] which candidate won
};

// Tries candidates 0 .. count - 1 on every row and group; the first of equals wins; with one candidate nothing is
// tried. gram null: sum of squared errors, else e G_gg e^T. finalists: RangeOptions::finalists; 1: of gram only the
// diagonal is read. Validates nothing.
CandidateSearch search_candidates(const Matrix& weight, const Grid& grid, const Matrix* gram, int count,
                                  const CandidateRange& candidate, int finalists = 0);

// Least and largest weight of each row's group, [out, groups].
std::vector<Extent> group_extents(const Matrix& weight, int64_t group_size);

// ArgumentError unless grid is one, weight is not empty, and gram, when given, is [in, in]; NumericError unless weight
// is finite.
void require_arguments(const Matrix& weight, const Grid& grid, const Matrix* gram);
// ArgumentError unless ranges belong to a weight of these sizes and to the grid.
void require_ranges(const GroupRanges& ranges, const Matrix& weight, const Grid& grid);

}  // namespace metal_marlin

// The search over candidate ranges that group_range and clip share. For each row and group the candidate with the least
// error wins.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <vector>

#include "core/tensor.h"
#include "core/values.h"
#include "quantize/lanes.h"
#include "quantize/ranges.h"

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

// Fills `wanted` for candidate `index` of the groups with these extents. It is called from several threads at once.
using CandidateRange = std::function<void(int index, const std::array<Extent, kLaneRows>& extents, Wanted& wanted)>;

struct CandidateSearch {
  GroupRanges ranges;           // of the winners, counts filled
  std::vector<uint16_t> index;  // [out, groups] which candidate won
};

// Tries candidates 0 .. count - 1 on every row and group. The first of equal candidates wins; a single candidate is
// taken untried. The error is e G_gg e^T, or the sum of squared errors where gram is null. finalists is
// RangeOptions::finalists; with 1 only the diagonal of gram is read. The caller must have checked the arguments
// (require_arguments).
CandidateSearch search_candidates(const Matrix& weight, const Grid& grid, const Matrix* gram, int count,
                                  const CandidateRange& candidate, int finalists = 0);

// Least and largest weight of each row's group, [out, groups].
std::vector<Extent> group_extents(const Matrix& weight, int64_t group_size);

// Throws ArgumentError for an invalid grid, an empty weight, or a gram that is not [in, in]; NumericError when weight
// is not finite.
void require_arguments(const Matrix& weight, const Grid& grid, const Matrix* gram);
// Throws ArgumentError unless `ranges` has the sizes of the weight and the kind of the grid.
void require_ranges(const GroupRanges& ranges, const Matrix& weight, const Grid& grid);

}  // namespace metal_marlin

// Ranges of groups: how they may be chosen, and what they are.
#pragma once

#include <metal_marlin/options.h>

#include <cstdint>
#include <vector>

#include "core/tensor.h"
#include "core/values.h"

namespace metal_marlin {

// The choices of a range, exactly:
//   kAbsmax: symmetric: S = max|w| / divisor; asymmetric: S = (max - min) / (levels - 1) with min <= 0 <= max; with a
//     minimum: the same, of any min and max, m = min
//   kMse: the candidates of kGram, least sum of squared errors of the group's weights
//   kGram: least e G_gg e^T, e the group's weight errors, G_gg its block of the Gram matrix
//   kDiagonal: the same with the diagonal of G_gg alone: sum of G_kk e_k^2
constexpr bool reads_gram(RangeChoice method) noexcept {
  return method == RangeChoice::kGram || method == RangeChoice::kDiagonal;
}

struct RangeOptions {
  RangeChoice method = RangeChoice::kAbsmax;
  // Of kAbsmax, symmetric: max|w| / divisor. 0: 2^(bits-1) - 1 (7 at 4 bits, the published choice). 7.5 uses the grid's
  // half step at both ends.
  float divisor = 0;
  // Of kMse, kGram and kDiagonal, symmetric: also tries negative scales, with which the weight of largest magnitude
  // gets code 0, i.e. -8 S at 4 bits instead of 7.5 S. A symmetric grid has one code more on one side; a negative scale
  // puts it on the longer side of the group.
  bool signed_scales = false;
  // Of kGram, groups up to 256: for each row and group only this many candidates are tried with the whole block, those
  // with the least error by the diagonal of G_gg. 0: all are tried. 1: as kDiagonal, for groups of any size.
  int finalists = 0;
};

inline constexpr float kLeastScale = scale_range(ScaleType::kF16).least;
inline constexpr float kLargestScale = scale_range(ScaleType::kF16).largest;

struct RangeCounts {
  int64_t zero_groups = 0;  // all weights 0: the least scale, every code equals the zero point
  int64_t raised = 0;       // scale below the type's least, raised to it
  int64_t clamped = 0;      // scale above the type's largest, clamped to it: the group's largest weights are clipped
};

struct GroupRanges {
  int64_t out_features = 0;
  int64_t in_features = 0;
  int64_t group_size = 0;  // never -1: in_features for one group per row
  std::vector<uint16_t>
      scales;                  // bits of the grid's type [out, groups], normal, finite; positive but for signed_scales
  std::vector<uint8_t> zeros;  // [out, groups]; symmetric: 2^(bits-1); with a minimum: 0
  std::vector<uint16_t> minima;  // with a minimum: bits of the grid's type [out, groups]; else empty
  RangeCounts counts;

  int64_t groups() const noexcept { return group_size == 0 ? 0 : (in_features + group_size - 1) / group_size; }
  float minimum(size_t group, const Grid& grid) const noexcept {
    return minima.empty() ? 0.0f : decode_scale(minima[group], grid.scale_type);
  }
};

// Throws ArgumentError for an invalid grid: bits outside 2..8, a group_size that is neither > 0 nor -1, or a symmetric
// grid with a minimum.
void validate(const Grid& grid);
// Throws NumericError naming `name` and the first element that is NaN or Inf.
void require_finite(const Matrix& matrix, const char* name);

}  // namespace metal_marlin

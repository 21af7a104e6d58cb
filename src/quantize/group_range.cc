#include "quantize/group_range.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>

#include "core/half.h"
#include "quantize/candidates.h"
#include "quantize/lanes.h"

namespace metal_marlin {
namespace {

// Factors on the group's extent that kMse and kGram try.
constexpr int kSymmetricFactors = 25;   // 0.5 .. 1.1
constexpr int kAsymmetricFactors = 18;  // 0.6 .. 1.025
constexpr int kShifts = 3;              // of the zero: -1, 0, 1
float symmetric_factor(int i) noexcept {
  return static_cast<float>(0.5 + 0.025 * i);
}
float asymmetric_factor(int i) noexcept {
  return static_cast<float>(0.6 + 0.025 * i);
}

}  // namespace

int64_t lift_zeros(GroupRanges& ranges, const Grid& grid, int least) {
  int64_t lifted = 0;
  const int top = grid.levels() - 1;
  for (size_t i = 0; i < ranges.zeros.size(); ++i) {
    if (ranges.zeros[i] >= least) continue;
    const float factor = static_cast<float>(top - ranges.zeros[i]) / static_cast<float>(top - least);
    ranges.scales[i] = encode_scale(
        std::min(decode_scale(ranges.scales[i], grid.scale_type) * factor, scale_range(grid.scale_type).largest),
        grid.scale_type);
    ranges.zeros[i] = static_cast<uint8_t>(least);
    ++lifted;
  }
  return lifted;
}

GroupRanges group_ranges(const Matrix& weight, const Grid& grid, const RangeOptions& options, const Matrix* gram) {
  const bool by_gram = reads_gram(options.method);
  const int finalists = options.method == RangeChoice::kDiagonal ? 1 : options.finalists;
  if (by_gram && gram == nullptr) {
    throw ArgumentError(
        "gram: ranges by the Gram matrix need one; collect it during calibration, or use absmax or mse");
  }
  if (!(options.divisor >= 0.0f)) {
    throw ArgumentError(fmt::format("divisor: expected 0 or a positive number, found {}", options.divisor));
  }
  if (options.finalists < 0)
    throw ArgumentError(fmt::format("finalists: expected 0 (all) or more, found {}", options.finalists));
  if (!by_gram) gram = nullptr;
  require_arguments(weight, grid, gram);
  using Extents = std::array<Extent, kLaneRows>;
  const bool searched = options.method != RangeChoice::kAbsmax;
  const float levels = static_cast<float>(grid.levels());
  if (grid.symmetric) {
    const float divisor = searched ? levels / 2 - 0.5f : (options.divisor > 0 ? options.divisor : levels / 2 - 1.0f);
    const auto candidate = [=](int i, const Extents& extents, Wanted& wanted) {
      const bool flipped = i >= kSymmetricFactors;
      const float factor = searched ? symmetric_factor(i % kSymmetricFactors) : 1.0f;
      for (size_t r = 0; r < extents.size(); ++r) {
        wanted.scale[r] = extents[r].magnitude() * factor / (flipped ? levels / 2 : divisor);
        // The sign puts code 0 at the end where the largest weight is.
        if (flipped) wanted.sign[r] = extents[r].max > -extents[r].min ? -1.0f : 1.0f;
      }
    };
    const int count = !searched ? 1 : (options.signed_scales ? 2 : 1) * kSymmetricFactors;
    return search_candidates(weight, grid, gram, count, candidate, finalists).ranges;
  }
  const auto candidate = [=, minimum = grid.minimum](int i, const Extents& extents, Wanted& wanted) {
    const float factor = searched ? asymmetric_factor(i / kShifts) : 1.0f;
    wanted.shift = searched ? static_cast<float>(i % kShifts - 1) : 0.0f;
    for (size_t r = 0; r < extents.size(); ++r) {
      const auto [min, max] = minimum ? extents[r] : extents[r].with_zero();
      wanted.scale[r] = (max - min) * factor / (levels - 1.0f);
      // The range shrinks towards the weight 0, which a zero point represents, or with a minimum towards the middle.
      wanted.low[r] = minimum && searched ? 0.5f * (max + min - (max - min) * factor) : min * factor;
    }
  };
  return search_candidates(weight, grid, gram, searched ? kAsymmetricFactors * kShifts : 1, candidate, finalists)
      .ranges;
}

}  // namespace metal_marlin

#include "quantize/clip.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <limits>

#include "quantize/candidates.h"

namespace metal_marlin {

ClipResult search_clip(const Matrix& weight, const Matrix& gram, const Grid& grid, const ClipOptions& options) {
  const double wanted = options.max_shrink * options.steps;
  if (options.steps < 1 || !(options.max_shrink > 0 && options.max_shrink <= 1) || wanted < 1 ||
      wanted > std::numeric_limits<uint16_t>::max()) {
    throw ArgumentError(
        fmt::format("clip search: expected steps >= 1, max_shrink in (0, 1] and 1 to 65535 candidates, found {} steps, "
                    "max_shrink {}",
                    options.steps, options.max_shrink));
  }
  if (!(options.divisor >= 0.0f)) {
    throw ArgumentError(fmt::format("divisor: expected 0 or a positive number, found {}", options.divisor));
  }
  require_arguments(weight, grid, &gram);
  const int bits = grid.bits;
  const float divisor = options.divisor > 0 ? options.divisor : static_cast<float>(grid.levels() / 2 - 1);
  const auto limit = [steps = options.steps](int i, Extent extent) {
    return extent.magnitude() * static_cast<float>(1.0 - static_cast<double>(i) / steps);
  };
  const auto candidate = [=, symmetric = grid.symmetric](int i, Extent extent) {
    const float bound = limit(i, extent);
    if (symmetric) return symmetric_range(bound, divisor, bits);
    const auto [min, max] = extent.with_zero();
    const float low = std::max(min, -bound);
    return asymmetric_range(std::min(max, bound) - low, low, 0, bits);
  };
  CandidateSearch search = search_candidates(weight, grid, &gram, static_cast<int>(wanted), candidate);
  ClipResult result;
  const std::vector<Extent> extents = group_extents(weight, search.ranges.group_size);
  result.limits.resize(extents.size());
  for (size_t i = 0; i < extents.size(); ++i) {
    result.limits[i] = limit(search.index[i], extents[i]);
    result.clipped_groups += search.index[i] > 0 ? 1 : 0;
  }
  result.ranges = std::move(search.ranges);
  return result;
}

}  // namespace metal_marlin

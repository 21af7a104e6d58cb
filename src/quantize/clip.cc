#include "quantize/clip.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <limits>

#include "quantize/candidates.h"

namespace metal_marlin {

ClipResult search_clip(const Matrix& weight, const Matrix& gram, const Grid& grid, const ClipOptions& options) {
  const double count = options.max_shrink * options.steps;
  if (options.steps < 1 || !(options.max_shrink > 0 && options.max_shrink <= 1) || count < 1 ||
      count > std::numeric_limits<uint16_t>::max()) {
    throw ArgumentError(
        fmt::format("clip search: expected steps >= 1, max_shrink in (0, 1] and 1 to 65535 candidates, found {} steps, "
                    "max_shrink {}",
                    options.steps, options.max_shrink));
  }
  if (!(options.divisor >= 0.0f)) {
    throw ArgumentError(fmt::format("divisor: expected 0 or a positive number, found {}", options.divisor));
  }
  require_arguments(weight, grid, &gram);
  const float levels = static_cast<float>(grid.levels());
  const float divisor = options.divisor > 0 ? options.divisor : levels / 2 - 1.0f;
  const auto kept = [steps = options.steps](int i) { return static_cast<float>(1.0 - static_cast<double>(i) / steps); };
  const auto candidate = [=, symmetric = grid.symmetric](int i, const std::array<Extent, kLaneRows>& extents,
                                                         Wanted& wanted) {
    const float share = kept(i);
    for (size_t r = 0; r < extents.size(); ++r) {
      const float bound = extents[r].magnitude() * share;
      const auto [min, max] = extents[r].with_zero();
      const float low = std::max(min, -bound);
      wanted.scale[r] = symmetric ? bound / divisor : (std::min(max, bound) - low) / (levels - 1.0f);
      wanted.low[r] = low;
    }
  };
  CandidateSearch search = search_candidates(weight, grid, &gram, static_cast<int>(count), candidate);
  ClipResult result;
  const std::vector<Extent> extents = group_extents(weight, search.ranges.group_size);
  result.limits.resize(extents.size());
  for (size_t i = 0; i < extents.size(); ++i) {
    result.limits[i] = extents[i].magnitude() * kept(search.index[i]);
    result.clipped_groups += search.index[i] > 0 ? 1 : 0;
  }
  result.ranges = std::move(search.ranges);
  return result;
}

}  // namespace metal_marlin

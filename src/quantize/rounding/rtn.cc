#include "quantize/rounding/rtn.h"

#include <algorithm>

#include "core/threads.h"
#include "quantize/candidates.h"
#include "quantize/lanes.h"

namespace metal_marlin {

QuantizedTensor quantize_rtn(const Matrix& weight, const GroupRanges& ranges, const Grid& grid) {
  require_arguments(weight, grid, nullptr);
  require_ranges(ranges, weight, grid);
  QuantizedTensor out{weight.rows(), weight.cols(), ranges.group_size, grid.bits,      grid.symmetric, {},
                      ranges.scales, ranges.zeros,  ranges.minima,     grid.scale_type};
  out.codes.resize(static_cast<size_t>(weight.size()));
  const int64_t groups = ranges.groups();
  const float top = static_cast<float>(grid.levels() - 1);
  parallel_for((weight.rows() + kLaneRows - 1) / kLaneRows, [&](int64_t tile) {
    for (int64_t r = tile * kLaneRows; r < std::min((tile + 1) * kLaneRows, weight.rows()); ++r) {
      for (int64_t g = 0; g < groups; ++g) {
        const auto at = static_cast<size_t>(r * groups + g);
        const int64_t start = g * ranges.group_size;
        round_span(weight.row(r).data() + start, std::min(ranges.group_size, weight.cols() - start),
                   decode_scale(ranges.scales[at], grid.scale_type), ranges.zeros[at], ranges.minimum(at, grid), top,
                   out.codes.data() + r * weight.cols() + start);
      }
    }
  });
  return out;
}

}  // namespace metal_marlin

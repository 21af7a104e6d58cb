#include "quantize/candidates.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "core/half.h"
#include "core/threads.h"
#include "kernels/linear_algebra.h"
#include "quantize/lanes.h"

namespace metal_marlin {
namespace {

// Up to here a group's Gram block fits the second-level cache beside the errors; beyond, a product in panels is faster.
constexpr int64_t kPackedGroup = 256;

Range storable(float scale) noexcept {
  Range range;
  if (!(scale < kLargestScale)) {
    range.clamped = scale > kLargestScale;
    range.scale = f32_to_f16(kLargestScale);
  } else {
    range.scale = f32_to_f16(scale);
    if (f16_to_f32(range.scale) < kLeastScale) {
      range.scale = f32_to_f16(kLeastScale);
      range.raised = true;
    }
  }
  return range;
}

// One group of one tile of rows.
struct GroupTile {
  const Matrix& weight;
  int64_t row;     // first
  int64_t rows;    // <= kLaneRows
  int64_t column;  // first
  int64_t length;
};

struct Winners {
  std::array<uint16_t, kLaneRows> index{};
  std::array<double, kLaneRows> loss;
  Winners() { loss.fill(std::numeric_limits<double>::infinity()); }
  void offer(int64_t row, int candidate, double value) noexcept {
    const auto r = static_cast<size_t>(row);
    if (value < loss[r]) {
      loss[r] = value;
      index[r] = static_cast<uint16_t>(candidate);
    }
  }
};

// Rows in lanes; the Gram block packed once for all candidates. extents: one per row, `stride` apart.
void search_in_lanes(const GroupTile& tile, const Matrix* gram, int count, const CandidateRange& candidate, float top,
                     const Extent* extents, int64_t stride, Winners& winners) {
  const int64_t padded = (tile.length + 3) / 4 * 4;
  std::vector<float> w(static_cast<size_t>(padded * kLaneRows));
  std::vector<float> scratch(w.size());
  for (int64_t r = 0; r < tile.rows; ++r) {
    const float* row = tile.weight.row(tile.row + r).data() + tile.column;
    for (int64_t k = 0; k < tile.length; ++k) w[static_cast<size_t>(k * kLaneRows + r)] = row[k];
  }
  std::vector<float> packed;
  if (gram != nullptr) {
    packed.resize(static_cast<size_t>(quadratic_floats(tile.length)));
    const int64_t ld = gram->cols();
    pack_quadratic(gram->data() + tile.column * ld + tile.column, ld, tile.length, packed.data());
  }
  std::array<float, kLaneRows> scale;
  std::array<float, kLaneRows> zero{};
  std::array<float, kLaneRows> loss;
  scale.fill(1.0f);
  for (int i = 0; i < count; ++i) {
    for (int64_t r = 0; r < tile.rows; ++r) {
      const Range range = candidate(i, extents[r * stride]);
      scale[static_cast<size_t>(r)] = f16_to_f32(range.scale);
      zero[static_cast<size_t>(r)] = range.zero;
    }
    quadratic_losses(w.data(), packed.empty() ? nullptr : packed.data(), padded, scale.data(), zero.data(), top,
                     scratch.data(), loss.data());
    for (int64_t r = 0; r < tile.rows; ++r) winners.offer(r, i, loss[static_cast<size_t>(r)]);
  }
}

// Rows as they stand; e G_gg by matrix products.
void search_by_products(const GroupTile& tile, const Matrix& gram, int count, const CandidateRange& candidate,
                        float top, const Extent* extents, int64_t stride, Winners& winners) {
  std::vector<float> errors(static_cast<size_t>(tile.rows * tile.length));
  std::vector<float> scratch(static_cast<size_t>(tile.rows * kQuadraticColumns));
  const std::vector<float> ones(static_cast<size_t>(tile.length), 1.0f);
  std::array<double, kLaneRows> loss;
  const int64_t ld = gram.cols();
  for (int i = 0; i < count; ++i) {
    for (int64_t r = 0; r < tile.rows; ++r) {
      const Range range = candidate(i, extents[r * stride]);
      const float* row = tile.weight.row(tile.row + r).data() + tile.column;
      round_error_span(row, row, ones.data(), tile.length, f16_to_f32(range.scale), range.zero, top,
                       errors.data() + r * tile.length);
    }
    quadratic_rows(errors.data(), tile.rows, tile.length, gram.data() + tile.column * ld + tile.column, ld, tile.length,
                   scratch.data(), loss.data());
    for (int64_t r = 0; r < tile.rows; ++r) winners.offer(r, i, loss[static_cast<size_t>(r)]);
  }
}

}  // namespace

Range symmetric_range(float magnitude, float divisor, int bits) noexcept {
  Range range = storable(magnitude / divisor);
  range.zero = static_cast<uint8_t>(1 << (bits - 1));
  return range;
}

Range asymmetric_range(float span, float min, int shift, int bits) noexcept {
  const float top = static_cast<float>((1 << bits) - 1);
  Range range = storable(span / top);
  const float zero = std::nearbyint(-min / f16_to_f32(range.scale)) + static_cast<float>(shift);
  range.zero = static_cast<uint8_t>(std::clamp(zero, 0.0f, top));
  return range;
}

std::vector<Extent> group_extents(const Matrix& weight, int64_t group_size) {
  const int64_t groups = (weight.cols() + group_size - 1) / group_size;
  std::vector<Extent> extents(static_cast<size_t>(weight.rows() * groups));
  parallel_for((weight.rows() + kLaneRows - 1) / kLaneRows, [&](int64_t tile) {
    for (int64_t r = tile * kLaneRows; r < std::min((tile + 1) * kLaneRows, weight.rows()); ++r) {
      for (int64_t g = 0; g < groups; ++g) {
        Extent& extent = extents[static_cast<size_t>(r * groups + g)];
        const int64_t start = g * group_size;
        min_max(weight.row(r).data() + start, std::min(group_size, weight.cols() - start), &extent.min, &extent.max);
      }
    }
  });
  return extents;
}

CandidateSearch search_candidates(const Matrix& weight, const Grid& grid, const Matrix* gram, int count,
                                  const CandidateRange& candidate) {
  CandidateSearch result;
  GroupRanges& ranges = result.ranges;
  ranges.out_features = weight.rows();
  ranges.in_features = weight.cols();
  ranges.group_size = grid.group_of(weight.cols());
  const int64_t groups = ranges.groups();
  const auto total = static_cast<size_t>(weight.rows() * groups);
  const std::vector<Extent> extents = group_extents(weight, ranges.group_size);
  const float top = static_cast<float>(grid.levels() - 1);
  result.index.assign(total, 0);
  if (count > 1) {
    const int64_t tiles = (weight.rows() + kLaneRows - 1) / kLaneRows;
    parallel_for(tiles * groups, [&](int64_t task) {
      const int64_t g = task % groups;
      GroupTile tile{weight, task / groups * kLaneRows, 0, g * ranges.group_size, 0};
      tile.rows = std::min(kLaneRows, weight.rows() - tile.row);
      tile.length = std::min(ranges.group_size, weight.cols() - tile.column);
      const Extent* first = extents.data() + tile.row * groups + g;
      Winners winners;
      if (gram == nullptr || tile.length <= kPackedGroup) {
        search_in_lanes(tile, gram, count, candidate, top, first, groups, winners);
      } else {
        search_by_products(tile, *gram, count, candidate, top, first, groups, winners);
      }
      for (int64_t r = 0; r < tile.rows; ++r) {
        result.index[static_cast<size_t>((tile.row + r) * groups + g)] = winners.index[static_cast<size_t>(r)];
      }
    });
  }
  ranges.scales.resize(total);
  ranges.zeros.resize(total);
  for (size_t i = 0; i < total; ++i) {
    const Range range = candidate(result.index[i], extents[i]);
    ranges.scales[i] = range.scale;
    ranges.zeros[i] = range.zero;
    const bool zero = extents[i].magnitude() == 0.0f;
    ranges.counts.zero_groups += zero ? 1 : 0;
    ranges.counts.raised += range.raised && !zero ? 1 : 0;
    ranges.counts.clamped += range.clamped ? 1 : 0;
  }
  return result;
}

void require_arguments(const Matrix& weight, const Grid& grid, const Matrix* gram) {
  validate(grid);
  if (weight.empty()) {
    throw ArgumentError(
        fmt::format("weight: expected a matrix [out, in], found [{}, {}]", weight.rows(), weight.cols()));
  }
  if (gram != nullptr && (gram->rows() != weight.cols() || gram->cols() != weight.cols())) {
    throw ArgumentError(fmt::format("gram: expected [{}, {}] for weight [{}, {}], found [{}, {}]", weight.cols(),
                                    weight.cols(), weight.rows(), weight.cols(), gram->rows(), gram->cols()));
  }
  require_finite(weight, "weight");
}

void require_ranges(const GroupRanges& ranges, const Matrix& weight, const Grid& grid) {
  const int64_t group = grid.group_of(weight.cols());
  const auto total = static_cast<size_t>(weight.rows() * ((weight.cols() + group - 1) / group));
  if (ranges.out_features != weight.rows() || ranges.in_features != weight.cols() || ranges.group_size != group ||
      ranges.scales.size() != total || ranges.zeros.size() != total) {
    throw ArgumentError(
        fmt::format("ranges: expected {} ranges in groups of {} for weight [{}, {}], found {} scales and {} zeros in "
                    "groups of {} for [{}, {}]",
                    total, group, weight.rows(), weight.cols(), ranges.scales.size(), ranges.zeros.size(),
                    ranges.group_size, ranges.out_features, ranges.in_features));
  }
  const auto top = static_cast<uint8_t>(grid.levels() - 1);
  for (size_t i = 0; i < total; ++i) {
    if (ranges.zeros[i] > top || !(f16_to_f32(ranges.scales[i]) >= kLeastScale) ||
        !std::isfinite(f16_to_f32(ranges.scales[i]))) {
      throw ArgumentError(
          fmt::format("ranges: expected zeros up to {} and normal positive f16 scales, found zero {}, scale {} at {}",
                      top, ranges.zeros[i], f16_to_f32(ranges.scales[i]), i));
    }
  }
}

}  // namespace metal_marlin

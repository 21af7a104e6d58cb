#include "quantize/candidates.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <bit>
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

// Nearest f16 within [kLeastScale, kLargestScale] of a value >= 0, as float32. Without branches, so that the loop over
// a tile's rows becomes vector code.
float storable_scale(float wanted) noexcept {
  const float bounded = wanted < kLeastScale ? kLeastScale : (wanted > kLargestScale ? kLargestScale : wanted);
  const uint32_t u = std::bit_cast<uint32_t>(bounded);
  return std::bit_cast<float>((u + 0xfffu + ((u >> 13) & 1u)) & ~0x1fffu);
}

// rint of a value in [0, 2^22).
float round_small(float value) noexcept {
  return (value + 0x1.8p23f) - 0x1.8p23f;
}

// One group of one tile of rows.
struct GroupTile {
  const Matrix& weight;
  int64_t row;     // first
  int64_t rows;    // <= kLaneRows
  int64_t column;  // first
  int64_t length;
  bool symmetric;
  float top;  // largest code
  std::array<Extent, kLaneRows> extents;
};

// One value per row of the tile.
struct Ranges {
  Wanted wanted;
  std::array<float, kLaneRows> scale;
  std::array<float, kLaneRows> zero;
};

void make_ranges(const GroupTile& tile, int index, const CandidateRange& candidate, Ranges& ranges) {
  ranges.wanted.sign.fill(1.0f);
  candidate(index, tile.extents, ranges.wanted);
  for (size_t r = 0; r < kLaneRows; ++r) ranges.scale[r] = storable_scale(ranges.wanted.scale[r]) * ranges.wanted.sign[r];
  if (tile.symmetric) {
    ranges.zero.fill((tile.top + 1) / 2);
    return;
  }
  for (size_t r = 0; r < kLaneRows; ++r) {
    const float steps = -ranges.wanted.low[r] / ranges.scale[r];
    const float zero = round_small(steps < 1024.0f ? steps : 1024.0f) + ranges.wanted.shift;
    ranges.zero[r] = zero < 0.0f ? 0.0f : (zero > tile.top ? tile.top : zero);
  }
}

struct Winners {
  std::array<float, kLaneRows> loss;
  std::array<float, kLaneRows> wanted;
  std::array<float, kLaneRows> scale;
  std::array<float, kLaneRows> zero;
  std::array<int, kLaneRows> index;

  void set(const Ranges& ranges) noexcept {
    wanted = ranges.wanted.scale;
    scale = ranges.scale;
    zero = ranges.zero;
    index.fill(0);
    loss.fill(std::numeric_limits<float>::infinity());
  }
  void offer(int candidate, const Ranges& ranges, const std::array<float, kLaneRows>& value) noexcept {
    for (size_t r = 0; r < kLaneRows; ++r) {
      const bool better = value[r] < loss[r];
      loss[r] = better ? value[r] : loss[r];
      wanted[r] = better ? ranges.wanted.scale[r] : wanted[r];
      scale[r] = better ? ranges.scale[r] : scale[r];
      zero[r] = better ? ranges.zero[r] : zero[r];
      index[r] = better ? candidate : index[r];
    }
  }
};

// Rows in lanes; the Gram block packed once for all candidates.
void search_in_lanes(const GroupTile& tile, const Matrix* gram, int count, const CandidateRange& candidate,
                     Winners& winners) {
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
  Ranges ranges;
  std::array<float, kLaneRows> loss;
  for (int i = 0; i < count; ++i) {
    make_ranges(tile, i, candidate, ranges);
    quadratic_losses(w.data(), packed.empty() ? nullptr : packed.data(), padded, ranges.scale.data(),
                     ranges.zero.data(), tile.top, scratch.data(), loss.data());
    winners.offer(i, ranges, loss);
  }
}

// Rows as they stand; e G_gg by matrix products.
void search_by_products(const GroupTile& tile, const Matrix& gram, int count, const CandidateRange& candidate,
                        Winners& winners) {
  std::vector<float> errors(static_cast<size_t>(tile.rows * tile.length));
  std::vector<float> scratch(static_cast<size_t>(tile.rows * kQuadraticColumns));
  const std::vector<float> ones(static_cast<size_t>(tile.length), 1.0f);
  Ranges ranges;
  std::array<double, kLaneRows> forms{};
  std::array<float, kLaneRows> loss;
  const int64_t ld = gram.cols();
  for (int i = 0; i < count; ++i) {
    make_ranges(tile, i, candidate, ranges);
    for (int64_t r = 0; r < tile.rows; ++r) {
      const float* row = tile.weight.row(tile.row + r).data() + tile.column;
      round_error_span(row, row, ones.data(), tile.length, ranges.scale[static_cast<size_t>(r)],
                       ranges.zero[static_cast<size_t>(r)], tile.top, errors.data() + r * tile.length);
    }
    quadratic_rows(errors.data(), tile.rows, tile.length, gram.data() + tile.column * ld + tile.column, ld, tile.length,
                   scratch.data(), forms.data());
    std::transform(forms.begin(), forms.end(), loss.begin(), [](double v) { return static_cast<float>(v); });
    winners.offer(i, ranges, loss);
  }
}

}  // namespace

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
  result.index.resize(total);
  ranges.scales.resize(total);
  ranges.zeros.resize(total);
  const int64_t tasks = (weight.rows() + kLaneRows - 1) / kLaneRows * groups;
  std::vector<RangeCounts> counts(static_cast<size_t>(tasks));
  parallel_for(tasks, [&](int64_t task) {
    const int64_t g = task % groups;
    GroupTile tile{weight,
                   task / groups * kLaneRows,
                   0,
                   g * ranges.group_size,
                   0,
                   grid.symmetric,
                   static_cast<float>(grid.levels() - 1),
                   {}};
    tile.rows = std::min(kLaneRows, weight.rows() - tile.row);
    tile.length = std::min(ranges.group_size, weight.cols() - tile.column);
    const auto at = [&](int64_t r) { return static_cast<size_t>((tile.row + r) * groups + g); };
    for (int64_t r = 0; r < tile.rows; ++r) tile.extents[static_cast<size_t>(r)] = extents[at(r)];
    Winners winners;
    {
      Ranges first;
      make_ranges(tile, 0, candidate, first);
      winners.set(first);
    }
    if (count > 1) {
      if (gram == nullptr || tile.length <= kPackedGroup) {
        search_in_lanes(tile, gram, count, candidate, winners);
      } else {
        search_by_products(tile, *gram, count, candidate, winners);
      }
    }
    RangeCounts& part = counts[static_cast<size_t>(task)];
    for (int64_t r = 0; r < tile.rows; ++r) {
      const auto lane = static_cast<size_t>(r);
      result.index[at(r)] = static_cast<uint16_t>(winners.index[lane]);
      ranges.scales[at(r)] = f32_to_f16(winners.scale[lane]);
      ranges.zeros[at(r)] = static_cast<uint8_t>(winners.zero[lane]);
      const bool zero = tile.extents[lane].magnitude() == 0.0f;
      part.zero_groups += zero ? 1 : 0;
      part.raised += !zero && round_to_f16(winners.wanted[lane]) < kLeastScale ? 1 : 0;
      part.clamped += winners.wanted[lane] > kLargestScale ? 1 : 0;
    }
  });
  for (const RangeCounts& part : counts) {
    ranges.counts.zero_groups += part.zero_groups;
    ranges.counts.raised += part.raised;
    ranges.counts.clamped += part.clamped;
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
    if (ranges.zeros[i] > top || !(std::fabs(f16_to_f32(ranges.scales[i])) >= kLeastScale) ||
        !std::isfinite(f16_to_f32(ranges.scales[i]))) {
      throw ArgumentError(
          fmt::format("ranges: expected zeros up to {} and normal f16 scales, found zero {}, scale {} at {}",
                      top, ranges.zeros[i], f16_to_f32(ranges.scales[i]), i));
    }
  }
}

}  // namespace metal_marlin

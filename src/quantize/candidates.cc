#include "quantize/candidates.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/counted.h"
#include "core/half.h"
#include "core/threads.h"
#include "kernels/linear_algebra.h"
#include "quantize/lanes.h"

namespace metal_marlin {
namespace {

// Up to this size a group's Gram block fits into the second-level cache beside the errors. Beyond it, a product in
// panels is faster.
constexpr int64_t kPackedGroup = 256;

// Rounds a value >= 0 to the scales' type, within that type's range, and returns it as float32. It has no branches, so
// that the loop over a tile's rows becomes vector code.
float storable_scale(float wanted, const ScaleRange& range) noexcept {
  const float bounded = wanted < range.least ? range.least : (wanted > range.largest ? range.largest : wanted);
  const uint32_t u = std::bit_cast<uint32_t>(bounded);
  const uint32_t lost = (1u << range.dropped_bits) - 1u;
  return std::bit_cast<float>((u + (lost >> 1) + ((u >> range.dropped_bits) & 1u)) & ~lost);
}

// Rounds any value to the type. A minimum may be subnormal or 0, so there is no least value.
float storable_minimum(float wanted, ScaleType type) noexcept {
  const float largest = scale_range(type).largest;
  return decode_scale(encode_scale(std::clamp(wanted, -largest, largest), type), type);
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
  const Grid& grid;
  float top;  // largest code
  std::array<Extent, kLaneRows> extents;
};

// One value per row of the tile.
struct Ranges {
  Wanted wanted;
  std::array<float, kLaneRows> scale;
  std::array<float, kLaneRows> zero;
  std::array<float, kLaneRows> minimum;  // 0 on a grid with zeros
};

void make_ranges(const GroupTile& tile, int index, const CandidateRange& candidate, Ranges& ranges) {
  ranges.wanted.sign.fill(1.0f);
  candidate(index, tile.extents, ranges.wanted);
  const ScaleRange range = scale_range(tile.grid.scale_type);
  for (size_t r = 0; r < kLaneRows; ++r)
    ranges.scale[r] = storable_scale(ranges.wanted.scale[r], range) * ranges.wanted.sign[r];
  ranges.minimum.fill(0.0f);
  if (tile.grid.symmetric) {
    ranges.zero.fill((tile.top + 1) / 2);
    return;
  }
  if (tile.grid.minimum) {
    ranges.zero.fill(0.0f);
    for (size_t r = 0; r < kLaneRows; ++r) {
      ranges.minimum[r] =
          storable_minimum(ranges.wanted.low[r] - 0.5f * ranges.wanted.shift * ranges.scale[r], tile.grid.scale_type);
    }
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
  std::array<float, kLaneRows> minimum;
  std::array<int, kLaneRows> index;

  void set(const Ranges& ranges) noexcept {
    wanted = ranges.wanted.scale;
    scale = ranges.scale;
    zero = ranges.zero;
    minimum = ranges.minimum;
    index.fill(0);
    loss.fill(std::numeric_limits<float>::infinity());
  }
  void offer(const std::array<int, kLaneRows>& candidate, const Ranges& ranges,
             const std::array<float, kLaneRows>& value) noexcept {
    for (size_t r = 0; r < kLaneRows; ++r) {
      const bool better = value[r] < loss[r];
      loss[r] = better ? value[r] : loss[r];
      wanted[r] = better ? ranges.wanted.scale[r] : wanted[r];
      scale[r] = better ? ranges.scale[r] : scale[r];
      zero[r] = better ? ranges.zero[r] : zero[r];
      minimum[r] = better ? ranges.minimum[r] : minimum[r];
      index[r] = better ? candidate[r] : index[r];
    }
  }
};

// Returns what is rounded. On a grid with minima that is the tile [column][row] less each row's minimum, in `above`; on
// a grid with zeros it is `w` itself.
const float* above_minimum(const GroupTile& tile, const std::vector<float>& w,
                           const std::array<float, kLaneRows>& minimum, std::vector<float>& above) {
  if (!tile.grid.minimum) return w.data();
  above.resize(w.size());  // the columns that pad stay 0
  for (int64_t k = 0; k < tile.length; ++k) {
    for (size_t r = 0; r < kLaneRows; ++r) {
      const size_t at = static_cast<size_t>(k) * kLaneRows + r;
      above[at] = w[at] - minimum[r];
    }
  }
  return above.data();
}

// Makes the tile [column][row], with columns padded to a multiple of four.
std::vector<float> rows_in_lanes(const GroupTile& tile) {
  const int64_t padded = (tile.length + 3) / 4 * 4;
  std::vector<float> w(static_cast<size_t>(padded * kLaneRows));
  for (int64_t r = 0; r < tile.rows; ++r) {
    const float* row = tile.weight.row(tile.row + r).data() + tile.column;
    for (int64_t k = 0; k < tile.length; ++k) w[static_cast<size_t>(k * kLaneRows + r)] = row[k];
  }
  return w;
}

std::vector<float> packed_block(const GroupTile& tile, const Matrix& gram) {
  std::vector<float> packed(static_cast<size_t>(quadratic_floats(tile.length)));
  const int64_t ld = gram.cols();
  pack_quadratic(gram.data() + tile.column * ld + tile.column, ld, tile.length, packed.data());
  return packed;
}

std::vector<float> padded_diagonal(const GroupTile& tile, const Matrix& gram, size_t padded) {
  std::vector<float> diagonal(padded);
  for (int64_t k = 0; k < tile.length; ++k) diagonal[static_cast<size_t>(k)] = gram(tile.column + k, tile.column + k);
  return diagonal;
}

// Tries the candidates one after the other. loss_of(values above the minimum, ranges, loss) fills the losses of the
// tile's rows.
template <typename Loss>
void offer_all(const GroupTile& tile, const std::vector<float>& w, int count, const CandidateRange& candidate,
               Winners& winners, const Loss& loss_of) {
  Ranges ranges;
  std::array<float, kLaneRows> loss;
  std::array<int, kLaneRows> numbers;
  std::vector<float> above;
  for (int i = 0; i < count; ++i) {
    make_ranges(tile, i, candidate, ranges);
    loss_of(above_minimum(tile, w, ranges.minimum, above), ranges, loss.data());
    numbers.fill(i);
    winners.offer(numbers, ranges, loss);
  }
}

// Finds the candidate with the least error by the diagonal of the block.
void search_by_diagonal(const GroupTile& tile, const Matrix& gram, int count, const CandidateRange& candidate,
                        Winners& winners) {
  const std::vector<float> w = rows_in_lanes(tile);
  const std::vector<float> diagonal = padded_diagonal(tile, gram, w.size() / kLaneRows);
  offer_all(tile, w, count, candidate, winners, [&](const float* above, const Ranges& ranges, float* loss) {
    diagonal_losses(above, diagonal.data(), std::ssize(diagonal), ranges.scale.data(), ranges.zero.data(), tile.top,
                    loss);
  });
}

// For each row finds the `finalists` candidates with the least error by the diagonal of the block, in ascending order
// of their numbers. Tries only these with the whole block.
void search_finalists(const GroupTile& tile, const Matrix& gram, int count, const CandidateRange& candidate,
                      int finalists, Winners& winners) {
  const std::vector<float> w = rows_in_lanes(tile);
  const std::vector<float> packed = packed_block(tile, gram);
  const auto padded = static_cast<int64_t>(w.size()) / kLaneRows;
  const std::vector<float> diagonal = padded_diagonal(tile, gram, static_cast<size_t>(padded));
  std::vector<Ranges> all(static_cast<size_t>(count));
  std::vector<float> above;
  std::vector<std::array<float, kLaneRows>> losses(static_cast<size_t>(count));
  for (size_t i = 0; i < all.size(); ++i) {
    make_ranges(tile, static_cast<int>(i), candidate, all[i]);
    diagonal_losses(above_minimum(tile, w, all[i].minimum, above), diagonal.data(), padded, all[i].scale.data(),
                    all[i].zero.data(), tile.top, losses[i].data());
  }
  std::vector<std::array<int, kLaneRows>> chosen(static_cast<size_t>(finalists));
  std::vector<int> order(static_cast<size_t>(count));
  for (size_t r = 0; r < kLaneRows; ++r) {
    std::iota(order.begin(), order.end(), 0);
    const auto better = [&](int a, int b) {
      const float la = losses[static_cast<size_t>(a)][r];
      const float lb = losses[static_cast<size_t>(b)][r];
      return la < lb || (la == lb && a < b);
    };
    std::nth_element(order.begin(), order.begin() + finalists - 1, order.end(), better);
    std::sort(order.begin(), order.begin() + finalists);
    for (size_t f = 0; f < chosen.size(); ++f) chosen[f][r] = order[f];
  }
  std::vector<float> scratch(w.size());
  Ranges ranges;
  std::array<float, kLaneRows> loss;
  for (const std::array<int, kLaneRows>& numbers : chosen) {
    for (size_t r = 0; r < kLaneRows; ++r) {
      const Ranges& from = all[static_cast<size_t>(numbers[r])];
      ranges.wanted.scale[r] = from.wanted.scale[r];
      ranges.scale[r] = from.scale[r];
      ranges.zero[r] = from.zero[r];
      ranges.minimum[r] = from.minimum[r];
    }
    quadratic_losses(above_minimum(tile, w, ranges.minimum, above), packed.data(), padded, ranges.scale.data(),
                     ranges.zero.data(), tile.top, scratch.data(), loss.data());
    winners.offer(numbers, ranges, loss);
  }
}

// Each row is one lane. The Gram block is packed once for all candidates.
void search_in_lanes(const GroupTile& tile, const Matrix* gram, int count, const CandidateRange& candidate,
                     Winners& winners) {
  const std::vector<float> w = rows_in_lanes(tile);
  const auto padded = static_cast<int64_t>(w.size()) / kLaneRows;
  std::vector<float> scratch(w.size());
  const std::vector<float> packed = gram != nullptr ? packed_block(tile, *gram) : std::vector<float>();
  offer_all(tile, w, count, candidate, winners, [&](const float* above, const Ranges& ranges, float* loss) {
    quadratic_losses(above, packed.empty() ? nullptr : packed.data(), padded, ranges.scale.data(), ranges.zero.data(),
                     tile.top, scratch.data(), loss);
  });
}

// Rows stay row by row, and e G_gg comes from matrix products. Calls fn(row, e G_gg e^T) for each row of the tile.
template <typename Fn>
void errors_by_products(const GroupTile& tile, const Matrix& gram, const std::array<float, kLaneRows>& scale,
                        const std::array<float, kLaneRows>& zero, const std::array<float, kLaneRows>& minimum,
                        const Fn& fn) {
  std::vector<float> errors(static_cast<size_t>(tile.rows * tile.length));
  std::vector<float> scratch(static_cast<size_t>(tile.rows * kQuadraticColumns));
  const std::vector<float> ones(static_cast<size_t>(tile.length), 1.0f);
  std::array<double, kLaneRows> forms{};
  const int64_t ld = gram.cols();
  for (int64_t r = 0; r < tile.rows; ++r) {
    const float* row = tile.weight.row(tile.row + r).data() + tile.column;
    round_error_span(row, row, ones.data(), tile.length, scale[static_cast<size_t>(r)], zero[static_cast<size_t>(r)],
                     minimum[static_cast<size_t>(r)], tile.top, errors.data() + r * tile.length);
  }
  quadratic_rows(errors.data(), tile.rows, tile.length, gram.data() + tile.column * ld + tile.column, ld, tile.length,
                 scratch.data(), forms.data());
  for (int64_t r = 0; r < tile.rows; ++r) fn(r, forms[static_cast<size_t>(r)]);
}

void search_by_products(const GroupTile& tile, const Matrix& gram, int count, const CandidateRange& candidate,
                        Winners& winners) {
  Ranges ranges;
  std::array<float, kLaneRows> loss{};
  std::array<int, kLaneRows> numbers;
  for (int i = 0; i < count; ++i) {
    make_ranges(tile, i, candidate, ranges);
    errors_by_products(tile, gram, ranges.scale, ranges.zero, ranges.minimum,
                       [&](int64_t r, double form) { loss[static_cast<size_t>(r)] = static_cast<float>(form); });
    numbers.fill(i);
    winners.offer(numbers, ranges, loss);
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
                                  const CandidateRange& candidate, int finalists) {
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
  if (grid.minimum) ranges.minima.resize(total);
  const ScaleRange storable = scale_range(grid.scale_type);
  const int64_t tasks = (weight.rows() + kLaneRows - 1) / kLaneRows * groups;
  std::vector<RangeCounts> counts(static_cast<size_t>(tasks));
  parallel_for(tasks, [&](int64_t task) {
    const int64_t g = task % groups;
    GroupTile tile{
        weight, task / groups * kLaneRows, 0, g * ranges.group_size, 0, grid, static_cast<float>(grid.levels() - 1),
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
      if (gram != nullptr && finalists == 1) {
        search_by_diagonal(tile, *gram, count, candidate, winners);
      } else if (gram != nullptr && tile.length <= kPackedGroup && finalists > 0 && finalists < count) {
        search_finalists(tile, *gram, count, candidate, finalists, winners);
      } else if (gram == nullptr || tile.length <= kPackedGroup) {
        search_in_lanes(tile, gram, count, candidate, winners);
      } else {
        search_by_products(tile, *gram, count, candidate, winners);
      }
    }
    RangeCounts& part = counts[static_cast<size_t>(task)];
    for (int64_t r = 0; r < tile.rows; ++r) {
      const auto lane = static_cast<size_t>(r);
      result.index[at(r)] = static_cast<uint16_t>(winners.index[lane]);
      ranges.scales[at(r)] = encode_scale(winners.scale[lane], grid.scale_type);
      ranges.zeros[at(r)] = static_cast<uint8_t>(winners.zero[lane]);
      if (grid.minimum) ranges.minima[at(r)] = encode_scale(winners.minimum[lane], grid.scale_type);
      const bool zero = tile.extents[lane].magnitude() == 0.0f;
      part.zero_groups += zero ? 1 : 0;
      const float nearest = decode_scale(encode_scale(winners.wanted[lane], grid.scale_type), grid.scale_type);
      part.raised += !zero && nearest < storable.least ? 1 : 0;
      part.clamped += winners.wanted[lane] > storable.largest ? 1 : 0;
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
      ranges.scales.size() != total || ranges.zeros.size() != total ||
      ranges.minima.size() != (grid.minimum ? total : 0)) {
    throw ArgumentError(
        fmt::format("ranges: expected {} ranges in groups of {} {} minima for weight [{}, {}], found {}, {} and "
                    "{} minima in groups of {} for [{}, {}]",
                    total, group, grid.minimum ? "with" : "without", weight.rows(), weight.cols(),
                    counted(ranges.scales.size(), "scale"), counted(ranges.zeros.size(), "zero"), ranges.minima.size(),
                    ranges.group_size, ranges.out_features, ranges.in_features));
  }
  const auto top = static_cast<uint8_t>(grid.levels() - 1);
  for (size_t i = 0; i < total; ++i) {
    const float scale = decode_scale(ranges.scales[i], grid.scale_type);
    if (ranges.zeros[i] > top || !(std::fabs(scale) >= scale_range(grid.scale_type).least) || !std::isfinite(scale)) {
      throw ArgumentError(fmt::format(
          "ranges: expected zeros up to {} and scales that are normal numbers, found zero {}, scale {} at {}", top,
          ranges.zeros[i], scale, i));
    }
    if (grid.minimum && (ranges.zeros[i] != 0 || !std::isfinite(decode_scale(ranges.minima[i], grid.scale_type)))) {
      throw ArgumentError(
          fmt::format("ranges: expected finite minima with zeros of 0, found zero {} at {}", ranges.zeros[i], i));
    }
  }
}

}  // namespace metal_marlin

#include "quantize/levels.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/half.h"
#include "core/threads.h"
#include "core/values.h"
#include "kernels/linear_algebra.h"
#include "quantize/group_range.h"
#include "quantize/lanes.h"
#include "quantize/rounding/gptq_tiles.h"

namespace metal_marlin {
namespace {

constexpr int kMost = 16;  // levels
constexpr int kCandidates = 41;
constexpr double kFirstFactor = 0.5;
constexpr double kFactorStep = 0.025;
constexpr int kDescents = 10;

LevelTable make_table(std::vector<float> levels, std::vector<uint8_t> codes) {
  LevelTable table{std::move(levels), std::move(codes), std::vector<float>(kMost, 0.0f)};
  for (size_t i = 0; i < table.levels.size(); ++i) table.values[table.codes[i]] = table.levels[i];
  return table;
}

std::vector<uint8_t> places() {
  std::vector<uint8_t> codes(kMost);
  std::iota(codes.begin(), codes.end(), uint8_t{0});
  return codes;
}

// Level i + 1 is chosen instead of i where x > after[i]. after[i] is the middle between the two, or the float before it
// where the middle itself is rounded up.
struct Steps {
  std::array<float, kMost> after;
  std::array<float, kMost> levels;
  std::array<uint8_t, kMost> codes;
  int count = 0;  // levels - 1

  explicit Steps(const LevelTable& table) : count(static_cast<int>(table.size()) - 1) {
    for (int i = 0; i <= count; ++i) {
      levels[static_cast<size_t>(i)] = table.levels[static_cast<size_t>(i)];
      codes[static_cast<size_t>(i)] = table.codes[static_cast<size_t>(i)];
    }
    for (int i = 0; i < count; ++i) {
      const auto at = static_cast<size_t>(i);
      const float middle = (levels[at] + levels[at + 1]) / 2;
      after[at] = codes[at + 1] % 2 == 0 ? std::nextafter(middle, -std::numeric_limits<float>::infinity()) : middle;
    }
  }
  size_t place(float x) const noexcept {
    size_t at = 0;
    for (int i = 0; i < count; ++i) at += x > after[static_cast<size_t>(i)] ? 1u : 0u;
    return at;
  }
  // at[i] = place(x[i]), i < values <= kLaneRows: one value per SIMD lane, one step after the other.
  void places(const float* x, int64_t values, int32_t* at) const noexcept {
    for (int64_t r = 0; r < values; ++r) at[r] = 0;
    for (int i = 0; i < count; ++i) {
      const float limit = after[static_cast<size_t>(i)];
      for (int64_t r = 0; r < values; ++r) at[r] += x[r] > limit ? 1 : 0;
    }
  }
  float level(int32_t at) const noexcept { return levels[static_cast<size_t>(at)]; }
};

float storable(double scale) noexcept {
  const double wanted = std::clamp(scale, static_cast<double>(kLeastScale), static_cast<double>(kLargestScale));
  return f16_to_f32(f32_to_f16(static_cast<float>(wanted)));
}

// One group of one row.
class Group {
 public:
  Group(const float* w, int64_t count, const Steps& steps) : w_(w), count_(count), steps_(steps) {}

  double loss(float scale) const {
    double sum = 0;
    each_level(scale, [&](int64_t i, float level) {
      const float e = level * scale - w_[i];
      sum += static_cast<double>(e) * e;
    });
    return sum;
  }

  void errors(float scale, float* out) const {
    each_level(scale, [&](int64_t i, float level) { out[i] = level * scale - w_[i]; });
  }

  double spanning() const noexcept {
    const auto [least, largest] = std::minmax_element(w_, w_ + count_);
    const double below = static_cast<double>(*least) / steps_.levels[0];
    const double above = static_cast<double>(*largest) / steps_.levels[static_cast<size_t>(steps_.count)];
    return std::max({below, above, 0.0});
  }

  float searched(double spanning) const {
    float best = storable(spanning);
    double least = std::numeric_limits<double>::infinity();
    float before = 0;
    for (int i = 0; i < kCandidates; ++i) {
      const float scale = storable(spanning * (kFirstFactor + kFactorStep * i));
      if (scale == before) continue;  // tiny weights: float16 has no value between the two
      before = scale;
      const double loss_here = loss(scale);
      if (loss_here < least) {
        least = loss_here;
        best = scale;
      }
    }
    return best;
  }

  float descended(float scale) const {
    double least = loss(scale);
    for (int i = 0; i < kDescents; ++i) {
      double across = 0;
      double squares = 0;
      each_level(scale, [&](int64_t k, double level) {
        across += level * w_[k];
        squares += level * level;
      });
      if (!(across > 0)) break;
      const float next = storable(across / squares);
      const double loss_there = loss(next);
      if (!(loss_there < least)) break;
      least = loss_there;
      scale = next;
    }
    return scale;
  }

 private:
  // fn(i, the level nearest to w[i] / scale).
  template <typename Fn>
  void each_level(float scale, const Fn& fn) const {
    std::array<float, kLaneRows> x;
    std::array<int32_t, kLaneRows> at;
    for (int64_t first = 0; first < count_; first += kLaneRows) {
      const int64_t values = std::min(kLaneRows, count_ - first);
      for (int64_t i = 0; i < values; ++i) x[static_cast<size_t>(i)] = w_[first + i] / scale;
      steps_.places(x.data(), values, at.data());
      for (int64_t i = 0; i < values; ++i) fn(first + i, steps_.level(at[static_cast<size_t>(i)]));
    }
  }

  const float* w_;
  int64_t count_;
  const Steps& steps_;
};

// Finds the scale with the least e H_gg e^T, for all rows of a tile at once, with one product per candidate.
std::vector<float> searched_by_hessian(const std::vector<Group>& rows, int64_t count, const Matrix& hessian,
                                       int64_t first) {
  const auto size = rows.size();
  bool silent = true;  // the group's channels are always zero, so every scale is equally good
  for (int64_t i = first; i < first + count; ++i) silent = silent && hessian(i, i) == 0;
  std::vector<double> spanning;
  for (const Group& row : rows) spanning.push_back(row.spanning());
  std::vector<float> best(size);
  for (size_t r = 0; silent && r < size; ++r) best[r] = rows[r].searched(spanning[r]);
  if (silent) return best;
  std::vector<double> least(size, std::numeric_limits<double>::infinity());
  std::vector<double> losses(size);
  std::vector<float> errors(size * static_cast<size_t>(count));
  std::vector<float> scratch(size * static_cast<size_t>(kQuadraticColumns));
  for (int i = 0; i < kCandidates; ++i) {
    const double factor = kFirstFactor + kFactorStep * i;
    for (size_t r = 0; r < size; ++r)
      rows[r].errors(storable(spanning[r] * factor), errors.data() + static_cast<int64_t>(r) * count);
    quadratic_rows(errors.data(), static_cast<int64_t>(size), count, hessian.data() + first * hessian.cols() + first,
                   hessian.cols(), count, scratch.data(), losses.data());
    for (size_t r = 0; r < size; ++r) {
      if (!(losses[r] < least[r])) continue;
      least[r] = losses[r];
      best[r] = storable(spanning[r] * factor);
    }
  }
  return best;
}

void require(const Matrix& weight, const LevelScales& scales) {
  if (weight.empty() || scales.out_features != weight.rows() || scales.in_features != weight.cols() ||
      scales.group_size < 1 || static_cast<int64_t>(scales.scales.size()) != weight.rows() * scales.groups()) {
    throw ArgumentError(fmt::format("scales: expected those of a weight of [{}, {}], found {} of one of [{}, {}]",
                                    weight.rows(), weight.cols(), scales.scales.size(), scales.out_features,
                                    scales.in_features));
  }
  require_finite(weight, "weight");
}

}  // namespace

const LevelTable& fp4_levels() {
  static const LevelTable table = make_table({-6, -4, -3, -2, -1.5f, -1, -0.5f, 0, 0.5f, 1, 1.5f, 2, 3, 4, 6},
                                             {15, 14, 13, 12, 11, 10, 9, 0, 1, 2, 3, 4, 5, 6, 7});
  return table;
}

const LevelTable& nf4_levels() {
  static const LevelTable table =
      make_table({-1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f,
                  -0.18477343022823334f, -0.09105003625154495f, 0.0f, 0.07958029955625534f, 0.16093020141124725f,
                  0.24611230194568634f, 0.33791524171829224f, 0.44070982933044434f, 0.5626170039176941f,
                  0.7229568362236023f, 1.0f},
                 places());
  return table;
}

const LevelTable& int4_levels() {
  static const LevelTable table = make_table({-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7}, places());
  return table;
}

int64_t nearest_level(const LevelTable& table, float x) noexcept {
  return static_cast<int64_t>(Steps(table).place(x));
}

LevelScales level_scales(const Matrix& weight, const LevelTable& table, int64_t group_size, LevelRange range,
                         const Matrix* hessian) {
  if (weight.empty())
    throw ArgumentError(
        fmt::format("weight: expected one that is not empty, found [{}, {}]", weight.rows(), weight.cols()));
  if (group_size != -1 && group_size < 1)
    throw ArgumentError(fmt::format("group_size: expected at least 1, or -1, found {}", group_size));
  const Matrix* block = range == LevelRange::kHessian ? hessian : nullptr;
  if (range == LevelRange::kHessian &&
      (hessian == nullptr || hessian->rows() != weight.cols() || hessian->cols() != weight.cols())) {
    throw ArgumentError(
        fmt::format("hessian: expected [{0}, {0}], found {1}", weight.cols(),
                    hessian == nullptr ? "none" : fmt::format("[{}, {}]", hessian->rows(), hessian->cols())));
  }
  require_finite(weight, "weight");
  const int64_t k = weight.cols();
  LevelScales out{weight.rows(), k, group_size == -1 ? k : std::min(group_size, k), {}, 0};
  const int64_t groups = out.groups();
  out.scales.resize(static_cast<size_t>(weight.rows() * groups));
  const Steps steps(table);
  const int64_t tiles = (weight.rows() + kLaneRows - 1) / kLaneRows;
  std::vector<int64_t> clamped(static_cast<size_t>(tiles), 0);
  parallel_for(tiles, [&](int64_t tile) {
    const int64_t row = tile * kLaneRows;
    const int64_t rows = std::min(kLaneRows, weight.rows() - row);
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t first = g * out.group_size;
      const int64_t count = std::min(out.group_size, k - first);
      std::vector<Group> members;
      for (int64_t r = row; r < row + rows; ++r) members.emplace_back(weight.row(r).data() + first, count, steps);
      std::vector<float> best;
      if (block != nullptr) best = searched_by_hessian(members, count, *block, first);
      for (int64_t r = 0; r < rows; ++r) {
        const Group& group = members[static_cast<size_t>(r)];
        const double spanning = group.spanning();
        float scale = storable(spanning);
        if (spanning > kLargestScale) ++clamped[static_cast<size_t>(tile)];
        if (spanning > 0 && block != nullptr) scale = best[static_cast<size_t>(r)];
        if (spanning > 0 && (range == LevelRange::kMse || range == LevelRange::kDescent))
          scale = group.searched(spanning);
        if (spanning > 0 && range == LevelRange::kDescent) scale = group.descended(scale);
        out.scales[static_cast<size_t>((row + r) * groups + g)] = f32_to_f16(scale);
      }
    }
  });
  out.clamped = std::accumulate(clamped.begin(), clamped.end(), int64_t{0});
  return out;
}

LevelTensor round_to_levels(const Matrix& weight, const LevelScales& scales, const LevelTable& table) {
  require(weight, scales);
  const int64_t k = weight.cols();
  const int64_t groups = scales.groups();
  LevelTensor out{weight.rows(), k, scales.group_size, std::vector<uint8_t>(static_cast<size_t>(weight.size())),
                  scales.scales};
  const Steps steps(table);
  parallel_for((weight.rows() + kLaneRows - 1) / kLaneRows, [&](int64_t tile) {
    for (int64_t r = tile * kLaneRows; r < std::min((tile + 1) * kLaneRows, weight.rows()); ++r) {
      for (int64_t c = 0; c < k; ++c) {
        const float scale = f16_to_f32(scales.scales[static_cast<size_t>(r * groups + c / scales.group_size)]);
        out.codes[static_cast<size_t>(r * k + c)] = steps.codes[steps.place(weight(r, c) / scale)];
      }
    }
  });
  return out;
}

LevelTensor gptq_to_levels(const Matrix& weight, const GptqFactor& factor, const LevelScales& scales,
                           const LevelTable& table) {
  require(weight, scales);
  require_factor(factor, weight.cols());
  const int64_t groups = scales.groups();
  LevelTensor out{weight.rows(), weight.cols(), scales.group_size,
                  std::vector<uint8_t>(static_cast<size_t>(weight.size())), scales.scales};
  const Steps steps(table);
  gptq_tiles(weight, factor, out.codes.data(), [&](int64_t row, int64_t rows, float*) {
    std::vector<float> scale(static_cast<size_t>(groups * kLaneRows), 1.0f);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t g = 0; g < groups; ++g) {
        scale[static_cast<size_t>(g * kLaneRows + r)] =
            f16_to_f32(scales.scales[static_cast<size_t>((row + r) * groups + g)]);
      }
    }
    return [&, scale = std::move(scale)](int64_t start, int64_t width, float* block, uint8_t* codes, float* errors) {
      std::array<float, kLaneRows> x;
      std::array<int32_t, kLaneRows> at;
      for (int64_t j = 0; j < width; ++j) {
        float* column = block + j * kLaneRows;
        for (int64_t i = 0; i < j; ++i) {
          const float u = factor.upper(start + i, start + j);
          const float* before = errors + i * kLaneRows;
          for (int64_t r = 0; r < kLaneRows; ++r) column[r] -= before[r] * u;
        }
        const int64_t g = factor.order[static_cast<size_t>(start + j)] / scales.group_size;
        const float* s = scale.data() + g * kLaneRows;
        const float inverse_pivot = 1.0f / factor.upper(start + j, start + j);
        for (int64_t r = 0; r < kLaneRows; ++r) x[static_cast<size_t>(r)] = column[r] / s[r];
        steps.places(x.data(), kLaneRows, at.data());
        for (size_t r = 0; r < kLaneRows; ++r) {
          const auto offset = j * kLaneRows + static_cast<int64_t>(r);
          errors[offset] = (column[r] - steps.level(at[r]) * s[r]) * inverse_pivot;
          codes[offset] = steps.codes[static_cast<size_t>(at[r])];
        }
      }
    };
  });
  return out;
}

Matrix dequantize(const LevelTensor& tensor, const LevelTable& table) {
  Matrix out(tensor.out_features, tensor.in_features);
  const int64_t groups = tensor.groups();
  for (int64_t r = 0; r < out.rows(); ++r) {
    for (int64_t c = 0; c < out.cols(); ++c) {
      out(r, c) = table.values[tensor.codes[static_cast<size_t>(r * out.cols() + c)] & 15u] *
                  f16_to_f32(tensor.scales[static_cast<size_t>(r * groups + c / tensor.group_size)]);
    }
  }
  return out;
}

}  // namespace metal_marlin

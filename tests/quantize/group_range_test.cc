#include "quantize/group_range.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include "quantize/clip.h"
#include "quantize/reference.h"

namespace metal_marlin {
namespace {

using reference::normal_matrix;

// float32 losses against float64 ones: a candidate this much worse than the best may win.
constexpr double kNearTie = 2e-5;

struct BruteForce {
  double best = std::numeric_limits<double>::infinity();
  std::vector<std::pair<uint16_t, int>> tried;
};

uint16_t f16(float v) {
  return f32_to_f16(std::max(v, 0x1p-14f));
}

// All candidates of the documented grid, in float64.
BruteForce brute_force(const float* w, int64_t count, bool symmetric, const Matrix* gram, int64_t first) {
  BruteForce result;
  const float high = std::max(*std::max_element(w, w + count), 0.0f);
  const float low = std::min(*std::min_element(w, w + count), 0.0f);
  const float magnitude = std::max(high, -low);
  const auto offer = [&](uint16_t scale, int zero) {
    const std::vector<double> e = reference::rounding_errors(w, count, f16_to_f32(scale), zero, 15);
    double loss = 0;
    if (gram != nullptr) {
      loss = reference::quadratic(e, *gram, first);
    } else {
      for (const double v : e) loss += v * v;
    }
    result.tried.emplace_back(scale, zero);
    result.best = std::min(result.best, loss);
  };
  if (symmetric) {
    for (int i = 0; i < 25; ++i) offer(f16(magnitude * static_cast<float>(0.5 + 0.025 * i) / 7.5f), 8);
  } else {
    for (int i = 0; i < 18; ++i) {
      const auto f = static_cast<float>(0.6 + 0.025 * i);
      const uint16_t scale = f16((high - low) * f / 15.0f);
      for (int shift = -1; shift <= 1; ++shift) {
        offer(scale, static_cast<int>(std::clamp(
                         std::nearbyint(-low * f / f16_to_f32(scale)) + static_cast<float>(shift), 0.0f, 15.0f)));
      }
    }
  }
  return result;
}

TEST(GroupRange, SearchEqualsBruteForce) {
  struct Case {
    int64_t out, in, group;
  };
  // Ragged, one row, one column, more rows than a tile, a group beyond the packed kind.
  for (const Case& c : {Case{5, 128, 64}, Case{1, 70, 32}, Case{3, 1, 64}, Case{67, 36, 16}, Case{2, 300, -1}}) {
    const Matrix weight = normal_matrix(c.out, c.in, 1, 0.05);
    const Matrix gram = reference::gram_of(reference::activations(2 * c.in + 3, c.in, 2));
    Matrix diagonal(c.in, c.in);
    for (int64_t k = 0; k < c.in; ++k) diagonal(k, k) = gram(k, k);
    for (const bool symmetric : {true, false}) {
      for (const RangeChoice method : {RangeChoice::kMse, RangeChoice::kGram, RangeChoice::kDiagonal}) {
        const Grid grid{4, symmetric, c.group};
        const Matrix* used = method == RangeChoice::kMse ? nullptr : method == RangeChoice::kGram ? &gram : &diagonal;
        const GroupRanges ranges = group_ranges(weight, grid, {method}, &gram);
        ASSERT_EQ(ranges.groups(), (c.in + ranges.group_size - 1) / ranges.group_size);
        for (int64_t r = 0; r < c.out; ++r) {
          for (int64_t g = 0; g < ranges.groups(); ++g) {
            const int64_t start = g * ranges.group_size;
            const int64_t count = std::min(ranges.group_size, c.in - start);
            const float* w = weight.row(r).data() + start;
            const BruteForce expected = brute_force(w, count, symmetric, used, start);
            const auto at = static_cast<size_t>(r * ranges.groups() + g);
            const uint16_t scale = ranges.scales[at];
            const int zero = ranges.zeros[at];
            EXPECT_NE(std::find(expected.tried.begin(), expected.tried.end(), std::pair<uint16_t, int>{scale, zero}),
                      expected.tried.end());
            const std::vector<double> e = reference::rounding_errors(w, count, f16_to_f32(scale), zero, 15);
            double loss = 0;
            double magnitude = 0;
            for (size_t k = 0; k < e.size(); ++k) {
              loss += e[k] * e[k];
              magnitude += used == nullptr
                               ? e[k] * e[k]
                               : e[k] * e[k] * gram(start + static_cast<int64_t>(k), start + static_cast<int64_t>(k));
            }
            if (used != nullptr) loss = reference::quadratic(e, *used, start);
            EXPECT_LE(loss, expected.best + kNearTie * (expected.best + magnitude)) << "row " << r << " group " << g;
          }
        }
      }
    }
  }
}

TEST(GroupRange, AbsmaxDivisors) {
  const Matrix weight = normal_matrix(1, 64, 9);
  float magnitude = 0;
  for (const float v : weight.values()) magnitude = std::max(magnitude, std::fabs(v));
  const Grid grid{4, true, 64};
  EXPECT_EQ(group_ranges(weight, grid).scales[0], f32_to_f16(magnitude / 7.0f));
  EXPECT_EQ(group_ranges(weight, grid, {RangeChoice::kAbsmax, 7.5f}).scales[0], f32_to_f16(magnitude / 7.5f));
  EXPECT_EQ(group_ranges(weight, Grid{8, true, 64}).scales[0], f32_to_f16(magnitude / 127.0f));
  EXPECT_EQ(group_ranges(weight, Grid{8, true, 64}).zeros[0], 128);
}

TEST(GroupRange, CountsWhatF16CannotHold) {
  Matrix weight(4, 32);
  for (int64_t k = 0; k < 32; ++k) {
    weight(1, k) = 1e-7f;                                     // raised
    weight(2, k) = k % 2 == 0 ? 1e6f : -1e6f;                 // clamped
    weight(3, k) = std::numeric_limits<float>::denorm_min();  // raised
  }
  for (const bool symmetric : {true, false}) {
    for (const RangeChoice method : {RangeChoice::kAbsmax, RangeChoice::kMse}) {
      const GroupRanges ranges = group_ranges(weight, Grid{4, symmetric, 32}, {method});
      EXPECT_EQ(ranges.counts.zero_groups, 1);
      EXPECT_EQ(ranges.counts.raised, 2);
      EXPECT_EQ(ranges.counts.clamped, 1);
      EXPECT_EQ(f16_to_f32(ranges.scales[0]), kLeastScale);
      EXPECT_EQ(f16_to_f32(ranges.scales[1]), kLeastScale);
      EXPECT_EQ(f16_to_f32(ranges.scales[2]), kLargestScale);
    }
  }
  // The largest floats: the span overflows float32.
  Matrix huge(1, 4);
  huge(0, 0) = std::numeric_limits<float>::max();
  huge(0, 1) = -std::numeric_limits<float>::max();
  EXPECT_EQ(group_ranges(huge, Grid{4, false, 4}).counts.clamped, 1);
}

TEST(GroupRange, OneSidedGroupsKeepZeroInTheRange) {
  Matrix weight(2, 16);
  for (int64_t k = 0; k < 16; ++k) {
    weight(0, k) = 1.0f + static_cast<float>(k);
    weight(1, k) = -1.0f - static_cast<float>(k);
  }
  const GroupRanges ranges = group_ranges(weight, Grid{4, false, 16});
  EXPECT_EQ(ranges.zeros[0], 0);
  EXPECT_EQ(ranges.zeros[1], 15);
  EXPECT_EQ(ranges.scales[0], f32_to_f16(16.0f / 15.0f));
}

TEST(GroupRange, OnlyTheUpperHalfOfTheGramIsRead) {
  const Matrix weight = normal_matrix(70, 320, 3);
  Matrix gram = reference::gram_of(reference::activations(400, 320, 4));
  for (const int64_t group : {64, -1}) {
    const Grid grid{4, true, group};
    const GroupRanges expected = group_ranges(weight, grid, {RangeChoice::kGram}, &gram);
    Matrix half = gram.clone();
    for (int64_t r = 0; r < 320; ++r) {
      for (int64_t c = 0; c < r; ++c) half(r, c) = std::numeric_limits<float>::quiet_NaN();
    }
    EXPECT_EQ(group_ranges(weight, grid, {RangeChoice::kGram}, &half).scales, expected.scales);
  }
}

TEST(GroupRange, Refuses) {
  Matrix weight = normal_matrix(2, 64, 1);
  const Matrix gram = normal_matrix(32, 32, 1);
  EXPECT_THROW(group_ranges(weight, Grid{4, true, 0}), ArgumentError);
  EXPECT_THROW(group_ranges(weight, Grid{1, true, 32}), ArgumentError);
  EXPECT_THROW(group_ranges(weight, Grid{9, true, 32}), ArgumentError);
  EXPECT_THROW(group_ranges(Matrix(), Grid{4, true, 32}), ArgumentError);
  EXPECT_THROW(group_ranges(weight, Grid{4, true, 32}, {RangeChoice::kGram}), ArgumentError);
  EXPECT_THROW(group_ranges(weight, Grid{4, true, 32}, {RangeChoice::kGram}, &gram), ArgumentError);
  EXPECT_THROW(group_ranges(weight, Grid{4, true, 32}, {RangeChoice::kAbsmax, -1.0f}), ArgumentError);
  weight(0, 5) = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THROW(group_ranges(weight, Grid{4, true, 32}), NumericError);
}

TEST(GroupRange, BytesDoNotDependOnThreads) {
  const Matrix weight = normal_matrix(200, 96, 3);
  const Matrix gram = reference::gram_of(reference::activations(100, 96, 4));
  EXPECT_TRUE(reference::same_bytes_for_threads(
      [&] { return group_ranges(weight, Grid{4, false, 32}, {RangeChoice::kGram}, &gram).scales; }));
}

// In float64 from the formula.
double loss_by_formula(const Matrix& weight, const GroupRanges& ranges, const Matrix& gram, int top) {
  double sum = 0;
  for (int64_t r = 0; r < weight.rows(); ++r) {
    std::vector<double> e(static_cast<size_t>(weight.cols()));
    for (int64_t c = 0; c < weight.cols(); ++c) {
      const auto at = static_cast<size_t>(r * ranges.groups() + c / ranges.group_size);
      const double scale = f16_to_f32(ranges.scales[at]);
      const double code = std::clamp(std::rint(weight(r, c) / scale) + ranges.zeros[at], 0.0, static_cast<double>(top));
      e[static_cast<size_t>(c)] = (code - ranges.zeros[at]) * scale - weight(r, c);
    }
    for (int64_t i = 0; i < weight.cols(); ++i) {
      for (int64_t j = 0; j < weight.cols(); ++j) {
        if (i / ranges.group_size == j / ranges.group_size)
          sum += e[static_cast<size_t>(i)] * e[static_cast<size_t>(j)] * gram(i, j);
      }
    }
  }
  return sum;
}

TEST(GroupRange, FinalistsLoseLittleAndAllOfThemNothing) {
  const Matrix weight = normal_matrix(70, 100, 13);
  const Matrix gram = reference::gram_of(reference::activations(80, 100, 14));
  for (const bool symmetric : {true, false}) {
    const Grid grid{4, symmetric, 32};
    RangeOptions options{RangeChoice::kGram};
    const GroupRanges all = group_ranges(weight, grid, options, &gram);
    const double least = loss_by_formula(weight, all, gram, 15);
    double before = loss_by_formula(weight, group_ranges(weight, grid), gram, 15);
    for (const int finalists : {1, 5, 20, 54}) {
      options.finalists = finalists;
      const GroupRanges some = group_ranges(weight, grid, options, &gram);
      const double loss = loss_by_formula(weight, some, gram, 15);
      EXPECT_LE(loss, before * 1.0001);
      EXPECT_GE(loss, least * 0.9999);
      before = loss;
      if (finalists >= (symmetric ? 25 : 54)) {
        EXPECT_EQ(some.scales, all.scales);
      }
    }
    // A diagonal block is what they are chosen by.
    Matrix diagonal(100, 100);
    for (int64_t k = 0; k < 100; ++k) diagonal(k, k) = gram(k, k);
    options.finalists = 0;
    const double best = loss_by_formula(weight, group_ranges(weight, grid, options, &diagonal), diagonal, 15);
    options.finalists = 1;
    EXPECT_NEAR(loss_by_formula(weight, group_ranges(weight, grid, options, &diagonal), diagonal, 15), best,
                1e-4 * best);
    options.finalists = -1;
    EXPECT_THROW(group_ranges(weight, grid, options, &gram), ArgumentError);
  }
}

TEST(LiftZeros, KeepsTheReachOfTheGroup) {
  GroupRanges ranges{.out_features = 1, .in_features = 24, .group_size = 8};
  ranges.scales = {f32_to_f16(0.5F), f32_to_f16(0.25F), f32_to_f16(60000.0F)};
  ranges.zeros = {0, 3, 0};
  EXPECT_EQ(lift_zeros(ranges, Grid{4, false, 8}, 1), 2);
  EXPECT_EQ(ranges.zeros, (std::vector<uint8_t>{1, 3, 1}));
  // (15 - 1) * 0.5357 = 7.5 = 15 * 0.5
  EXPECT_EQ(ranges.scales[0], f32_to_f16(0.5F * 15.0F / 14.0F));
  EXPECT_EQ(ranges.scales[1], f32_to_f16(0.25F));
  EXPECT_EQ(f16_to_f32(ranges.scales[2]), 64288.0F);  // 60000 * 15 / 14 = 64285.7, f16 steps of 32
  ranges.scales[2] = f32_to_f16(65504.0F);
  ranges.zeros[2] = 0;
  lift_zeros(ranges, Grid{4, false, 8}, 1);
  EXPECT_EQ(f16_to_f32(ranges.scales[2]), kLargestScale);
  EXPECT_EQ(lift_zeros(ranges, Grid{4, false, 8}, 1), 0);
}

}  // namespace
}  // namespace metal_marlin

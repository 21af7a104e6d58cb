#include "quantize/levels.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include <cmath>
#include <numeric>

#include "kernels/hadamard.h"
#include "quantize/reference.h"

namespace metal_marlin {
namespace {

using reference::normal_matrix;

constexpr double kNearTie = 2e-3;  // of a level's distance: in float32 a weight this near the middle may go either way

const std::vector<const LevelTable*>& tables() {
  static const std::vector<const LevelTable*> all = {&fp4_levels(), &nf4_levels(), &int4_levels()};
  return all;
}

double e2m1(int code) {
  const int exponent = code >> 1 & 3;
  const int mantissa = code & 1;
  const double size = exponent == 0 ? 0.5 * mantissa : std::ldexp(1 + 0.5 * mantissa, exponent - 1);
  return code & 8 ? -size : size;
}

// The nearest level by trying all; how far x is from the middle of the two nearest, relative to their distance.
int64_t nearest(const LevelTable& table, double x, double* from_middle = nullptr) {
  int64_t best = 0;
  for (int64_t i = 1; i < table.size(); ++i) {
    if (std::fabs(x - table.levels[static_cast<size_t>(i)]) < std::fabs(x - table.levels[static_cast<size_t>(best)]))
      best = i;
  }
  if (from_middle != nullptr) {
    *from_middle = 1;
    for (int64_t i = 0; i + 1 < table.size(); ++i) {
      const double a = table.levels[static_cast<size_t>(i)];
      const double b = table.levels[static_cast<size_t>(i + 1)];
      *from_middle = std::min(*from_middle, std::fabs(x - (a + b) / 2) / (b - a));
    }
  }
  return best;
}

double output_error(const Matrix& weight, const Matrix& rounded, const Matrix& gram) {
  double sum = 0;
  for (int64_t r = 0; r < weight.rows(); ++r) {
    std::vector<double> e;
    for (int64_t c = 0; c < weight.cols(); ++c) e.push_back(static_cast<double>(rounded(r, c)) - weight(r, c));
    sum += reference::quadratic(e, gram, 0);
  }
  return sum;
}

TEST(Levels, Fp4CodesAreE2m1) {
  const LevelTable& t = fp4_levels();
  EXPECT_EQ(t.size(), 15);
  for (int code = 0; code < 16; ++code) EXPECT_EQ(t.values[static_cast<size_t>(code)], e2m1(code)) << code;
  for (int64_t i = 0; i < t.size(); ++i) EXPECT_EQ(nearest_level(t, t.levels[static_cast<size_t>(i)]), i);
  // Ties go to the even mantissa; beyond the ends is the end.
  for (const auto& [x, level] : {std::pair{0.25f, 0.0f},
                                 {0.75f, 1.0f},
                                 {1.25f, 1.0f},
                                 {1.75f, 2.0f},
                                 {2.5f, 2.0f},
                                 {3.5f, 4.0f},
                                 {5.0f, 4.0f},
                                 {-0.25f, 0.0f},
                                 {-0.75f, -1.0f},
                                 {-1.25f, -1.0f},
                                 {-1.75f, -2.0f},
                                 {-2.5f, -2.0f},
                                 {-3.5f, -4.0f},
                                 {-5.0f, -4.0f},
                                 {7.0f, 6.0f},
                                 {-1e30f, -6.0f},
                                 {5.0001f, 6.0f},
                                 {0.2501f, 0.5f}}) {
    EXPECT_EQ(t.levels[static_cast<size_t>(nearest_level(t, x))], level) << x;
  }
}

// The construction of QLoRA's appendix E: means of neighbouring quantiles of N(0, 1), 8 below and 9 above 0, the ends
// at the quantile of (1/30 + 1/32) / 2, all divided by the largest.
TEST(Levels, Nf4FollowsItsConstruction) {
  const auto quantile = [](double p) {  // bisection on the normal distribution
    double low = -10;
    double high = 10;
    for (int i = 0; i < 200; ++i) {
      const double x = (low + high) / 2;
      (std::erfc(-x / std::sqrt(2.0)) / 2 < p ? low : high) = x;
    }
    return low;
  };
  const double offset = 1 - (1.0 / 30 + 1.0 / 32) / 2;
  std::vector<double> expected;
  for (int i = 0; i < 8; ++i) expected.push_back(quantile(offset + (0.5 - offset) * i / 8));
  for (int i = 0; i < 7; ++i) expected.push_back(-quantile(offset + (0.5 - offset) * i / 7));
  expected.push_back(0);
  std::sort(expected.begin(), expected.end());
  const LevelTable& t = nf4_levels();
  ASSERT_EQ(t.size(), 16);
  for (size_t i = 0; i < 16; ++i) EXPECT_NEAR(t.levels[i], expected[i] / expected.back(), 2e-7) << i;
}

TEST(Levels, NearestAndTablesAreSound) {
  for (const LevelTable* t : tables()) {
    for (int64_t i = 0; i < t->size(); ++i) {
      EXPECT_EQ(t->values[t->codes[static_cast<size_t>(i)]], t->levels[static_cast<size_t>(i)]);
      if (i > 0) {
        EXPECT_LT(t->levels[static_cast<size_t>(i - 1)], t->levels[static_cast<size_t>(i)]);
      }
    }
    Random random(1);
    for (int i = 0; i < 2000; ++i) {
      const auto x = static_cast<float>(1.3 * t->levels.back() * (2 * random.uniform() - 1));
      EXPECT_EQ(nearest_level(*t, x), nearest(*t, x)) << x;
    }
  }
}

TEST(Levels, ScalesReachAndLoseLess) {
  const Matrix weight = normal_matrix(70, 130, 2, 0.05);
  const Matrix gram = reference::gram_of(reference::activations(400, 130, 3));
  for (const LevelTable* t : tables()) {
    const LevelScales spanning = level_scales(weight, *t, 32, LevelRange::kMaxabs);
    EXPECT_EQ(spanning.groups(), 5);
    double squares[4] = {};
    double outputs[4] = {};
    for (int method = 0; method < 4; ++method) {
      const LevelScales scales = level_scales(weight, *t, 32, static_cast<LevelRange>(method), &gram);
      const Matrix rounded = dequantize(round_to_levels(weight, scales, *t), *t);
      for (int64_t r = 0; r < 70; ++r) {
        for (int64_t g = 0; g < 5; ++g) {
          std::vector<double> e;
          for (int64_t c = g * 32; c < std::min<int64_t>(g * 32 + 32, 130); ++c) {
            e.push_back(static_cast<double>(rounded(r, c)) - weight(r, c));
            squares[method] += e.back() * e.back();
          }
          outputs[method] += reference::quadratic(e, gram, g * 32);
        }
      }
    }
    for (int64_t r = 0; r < 70; ++r) {
      for (int64_t c = 0; c < 130; ++c) {
        const double x = weight(r, c) / f16_to_f32(spanning.scales[static_cast<size_t>(r * 5 + c / 32)]);
        ASSERT_LE(x, t->levels.back() * 1.001);
        ASSERT_GE(x, t->levels.front() * 1.001);
      }
    }
    EXPECT_LT(squares[1], squares[0]);
    EXPECT_LE(squares[2], squares[1]);
    EXPECT_LT(outputs[3], outputs[1]);
  }
}

TEST(Levels, GptqEqualsTheTextbook) {
  struct Case {
    int64_t out, in, group;
  };
  int64_t compared = 0;
  int64_t total = 0;
  for (const Case& c : {Case{3, 1, 8}, Case{70, 65, 32}, Case{5, 200, 64}, Case{66, 192, -1}}) {
    const Matrix weight = normal_matrix(c.out, c.in, 5, 0.05);
    const Matrix gram = reference::gram_of(reference::activations(2 * c.in + 5, c.in, 6));
    for (const LevelTable* t : tables()) {
      for (const bool act_order : {true, false}) {
        const GptqFactor factor = make_gptq_factor(gram, {act_order, 0.01, false});
        const LevelScales scales = level_scales(weight, *t, c.group, LevelRange::kMse);
        const LevelTensor q = gptq_to_levels(weight, factor, scales, *t);
        for (int64_t r = 0; r < c.out; ++r) {
          std::vector<double> w;
          for (const int32_t k : factor.order) w.push_back(weight(r, k));
          total += c.in;
          for (size_t j = 0; j < w.size(); ++j) {
            const int64_t k = factor.order[j];
            const double scale =
                f16_to_f32(scales.scales[static_cast<size_t>(r * scales.groups() + k / scales.group_size)]);
            double from_middle = 0;
            const auto level = static_cast<size_t>(nearest(*t, w[j] / scale, &from_middle));
            if (from_middle < kNearTie) break;
            ASSERT_EQ(q.codes[static_cast<size_t>(r * c.in + k)], t->codes[level]) << "row " << r << " step " << j;
            ++compared;
            const double err =
                (w[j] - t->levels[level] * scale) / factor.upper(static_cast<int64_t>(j), static_cast<int64_t>(j));
            for (size_t l = j + 1; l < w.size(); ++l)
              w[l] -= err * factor.upper(static_cast<int64_t>(j), static_cast<int64_t>(l));
          }
        }
      }
    }
  }
  EXPECT_GT(compared, total / 2);
}

TEST(Levels, GptqBeatsRoundingAndIsItWithoutCorrelation) {
  const Matrix weight = normal_matrix(96, 256, 7, 0.05);
  const Matrix gram = reference::gram_of(reference::activations(1000, 256, 8));
  Matrix identity(256, 256);
  for (int64_t i = 0; i < 256; ++i) identity(i, i) = 1;
  for (const LevelTable* t : tables()) {
    const LevelScales scales = level_scales(weight, *t, 64, LevelRange::kMse);
    const LevelTensor plain = round_to_levels(weight, scales, *t);
    const LevelTensor gptq = gptq_to_levels(weight, make_gptq_factor(gram), scales, *t);
    EXPECT_LT(output_error(weight, dequantize(gptq, *t), gram),
              0.6 * output_error(weight, dequantize(plain, *t), gram));
    EXPECT_EQ(gptq_to_levels(weight, make_gptq_factor(identity), scales, *t).codes, plain.codes);
  }
}

TEST(Levels, ThreadsZerosAndBadInput) {
  Matrix weight = normal_matrix(130, 100, 9, 0.05);
  for (float& v : weight.row(3)) v = 0;
  const Matrix gram = reference::gram_of(reference::activations(300, 100, 10));
  const LevelTable& t = fp4_levels();
  const Matrix silent(100, 100);
  EXPECT_TRUE(reference::same_bytes_for_threads([&] {
    const LevelScales scales = level_scales(weight, t, 48, LevelRange::kHessian, &gram);
    return gptq_to_levels(weight, make_gptq_factor(gram), scales, t).codes;
  }));
  EXPECT_EQ(level_scales(weight, t, 48, LevelRange::kHessian, &silent).scales,
            level_scales(weight, t, 48, LevelRange::kMse).scales);
  const LevelScales scales = level_scales(weight, t, 48, LevelRange::kDescent);
  const LevelTensor q = gptq_to_levels(weight, make_gptq_factor(gram), scales, t);
  for (int64_t c = 0; c < 100; ++c) EXPECT_EQ(q.codes[static_cast<size_t>(300 + c)], 0);
  EXPECT_EQ(f16_to_f32(scales.scales[9]), kLeastScale);
  EXPECT_THROW(level_scales(weight, t, 0, LevelRange::kMse), ArgumentError);
  EXPECT_THROW(level_scales(weight, t, 48, LevelRange::kHessian), ArgumentError);
  EXPECT_THROW(level_scales(Matrix(), t, 48, LevelRange::kMse), ArgumentError);
  EXPECT_THROW(gptq_to_levels(weight, make_gptq_factor(Matrix(3, 3)), scales, t), ArgumentError);
  EXPECT_THROW(round_to_levels(normal_matrix(2, 100, 1), scales, t), ArgumentError);
  weight(5, 5) = std::nanf("");
  EXPECT_THROW(level_scales(weight, t, 48, LevelRange::kMse), NumericError);
  EXPECT_THROW(round_to_levels(weight, scales, t), NumericError);
  const Matrix large = normal_matrix(2, 64, 1, 3e6);
  EXPECT_EQ(level_scales(large, t, 64, LevelRange::kMse).clamped, 2);
}

TEST(Hadamard, IsOrthonormalSymmetricAndSpreads) {
  EXPECT_EQ(hadamard_blocks(50, 64), (std::vector<int64_t>{32, 16, 2}));
  EXPECT_EQ(hadamard_blocks(131, 64), (std::vector<int64_t>{64, 64, 2, 1}));
  for (const int64_t n : {1, 2, 50, 64, 131}) {
    Matrix r(n, n);
    for (int64_t i = 0; i < n; ++i) r(i, i) = 1;
    rotate_columns(r, 64);
    int64_t start = 0;
    for (const int64_t block : hadamard_blocks(n, 64)) {
      for (int64_t i = 0; i < block; ++i) {
        for (int64_t j = 0; j < n; ++j) {
          // Sylvester's: the sign is the parity of the common bits.
          const bool inside = j >= start && j < start + block;
          const double sign = __builtin_popcountll(static_cast<uint64_t>(i & (j - start))) % 2 ? -1 : 1;
          ASSERT_NEAR(r(start + i, j), inside ? sign / std::sqrt(static_cast<double>(block)) : 0.0, 1e-7);
        }
      }
      start += block;
    }
    Matrix twice = r.clone();
    rotate_columns(twice, 64);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        double dot = 0;
        for (int64_t k = 0; k < n; ++k) dot += static_cast<double>(r(i, k)) * r(j, k);
        ASSERT_NEAR(dot, i == j ? 1 : 0, 1e-6);
        ASSERT_NEAR(twice(i, j), i == j ? 1 : 0, 1e-6);
      }
    }
  }
  EXPECT_THROW(hadamard_blocks(64, 48), ArgumentError);
  EXPECT_THROW(hadamard_blocks(64, 0), ArgumentError);
}

TEST(Hadamard, TheHessianTurnsWithTheInputs) {
  Matrix x = reference::activations(300, 90, 11);
  const Matrix gram = reference::gram_of(x);
  Matrix turned = gram.clone();
  rotate_hessian(turned, 32);
  rotate_columns(x, 32);
  const Matrix expected = reference::gram_of(x);
  double largest = 0;
  for (int64_t i = 0; i < 90; ++i) largest = std::max(largest, static_cast<double>(expected(i, i)));
  for (int64_t i = 0; i < 90; ++i) {
    for (int64_t j = 0; j < 90; ++j) {
      ASSERT_NEAR(turned(i, j), expected(i, j), 1e-5 * largest);
      ASSERT_EQ(turned(i, j), turned(j, i));
    }
  }
  EXPECT_THROW(
      {
        Matrix wide(2, 3);
        rotate_hessian(wide, 2);
      },
      ArgumentError);
}

}  // namespace
}  // namespace metal_marlin

// The GEMM provider against float64 sums, for shapes around its panels and blocks, and its independence of threads.
#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include <cmath>
#include <cstring>
#include <optional>

#include "core/half.h"
#include "core/random.h"
#include "core/threads.h"
#include "kernels/gemm.h"

namespace metal_marlin {
namespace {

Matrix random_matrix(int64_t rows, int64_t cols, uint64_t stream) {
  Random random(5, stream);
  Matrix m(rows, cols);
  for (auto& v : m.values()) v = static_cast<float>(random.normal());
  return m;
}

// Largest error of y against the exact product of the (rounded) inputs, in units of |x| |w|.
double product_error(const Matrix& x, const Matrix& w, const float* bias, const float* y, int64_t ldy, bool rounded) {
  double worst = 0;
  const auto value = [&](float v) { return rounded ? bf16_to_f32(f32_to_bf16(v)) : v; };
  for (int64_t r = 0; r < x.rows(); ++r) {
    for (int64_t n = 0; n < w.rows(); ++n) {
      double sum = bias == nullptr ? 0 : bias[n];
      double size = 1;
      for (int64_t k = 0; k < x.cols(); ++k) {
        const double a = value(x(r, k));
        const double b = value(w(n, k));
        sum += a * b;
        size += std::fabs(a * b);
      }
      worst = std::max(worst, std::fabs(y[r * ldy + n] - sum) / size);
    }
  }
  return worst;
}

// Chains of float32 additions: at most K 2^-24 relative to the sum of magnitudes, in practice its square root.
constexpr double kTolerance = 1e-6;

TEST(Gemm, EqualsFloat64) {
  const int64_t shapes[][3] = {{1, 1, 1},      {1, 576, 576},   {2, 37, 200},    {5, 513, 64},
                               {64, 192, 576}, {128, 1100, 48}, {130, 64, 1536}, {31, 577, 33}};
  for (const auto& s : shapes) {
    const Matrix x = random_matrix(s[0], s[2], 1);
    const Matrix w = random_matrix(s[1], s[2], 2);
    const Matrix bias = random_matrix(1, s[1], 3);
    for (const MatmulPrecision type : {MatmulPrecision::kF32, MatmulPrecision::kBF16}) {
      const PackedWeight packed(w.data(), s[1], s[2], type);
      EXPECT_TRUE(has_bf16_gemm() || !prefers_bf16_gemm());
      EXPECT_EQ(packed.type() == MatmulPrecision::kBF16, type == MatmulPrecision::kBF16 && has_bf16_gemm());
      EXPECT_GE(packed.bytes(), static_cast<uint64_t>(w.size()) * (packed.type() == MatmulPrecision::kBF16 ? 2 : 4));
      const int64_t ldy = s[1] + 3;
      for (const auto& linear : {linear_rows, linear_panels}) {
        for (const float* b : {static_cast<const float*>(nullptr), bias.data()}) {
          Matrix y(s[0], ldy);
          for (auto& v : y.values()) v = -77.0f;
          linear(packed, x.data(), s[0], b, y.data(), ldy);
          EXPECT_LT(product_error(x, w, b, y.data(), ldy, packed.type() == MatmulPrecision::kBF16), kTolerance)
              << s[0] << "x" << s[1] << "x" << s[2];
          for (int64_t r = 0; r < s[0]; ++r) EXPECT_EQ(y(r, s[1]), -77.0f);
        }
      }
    }
    const auto view = PackedWeight::view(w.data(), s[1], s[2]);
    EXPECT_EQ(view.bytes(), 0u);
    Matrix y(s[0], s[1]);
    linear_rows(view, x.data(), s[0], bias.data(), y.data(), s[1]);
    EXPECT_LT(product_error(x, w, bias.data(), y.data(), s[1], false), kTolerance);
    multiply_stored(MatmulPrecision::kF32, w.data(), s[1], s[2], x.data(), s[0], y.data());
    EXPECT_LT(product_error(x, w, nullptr, y.data(), s[1], false), kTolerance);
  }
}

TEST(Gemm, PanelsCoverTheWeight) {
  const Matrix w = random_matrix(1100, 8, 4);
  const PackedWeight packed(w.data(), 1100, 8, MatmulPrecision::kF32);
  int64_t next = 0;
  for (int64_t p = 0; p < packed.panels(); ++p) {
    EXPECT_EQ(packed.panel_begin(p), next);
    EXPECT_LE(packed.panel_width(p), PackedWeight::kPanel);
    next += packed.panel_width(p);
  }
  EXPECT_EQ(next, 1100);
  EXPECT_THROW(PackedWeight(w.data(), 0, 8, MatmulPrecision::kF32), ArgumentError);
  EXPECT_THROW(PackedWeight::view(w.data(), 8, -1), ArgumentError);
}

TEST(Gemm, SameBytesInsideAndOutsideOfParallelLoops) {
  std::optional<ThreadCount> thread_count;
  const Matrix x = random_matrix(96, 320, 5);
  const Matrix w = random_matrix(700, 320, 6);
  const PackedWeight packed(w.data(), 700, 320, MatmulPrecision::kF32);
  Matrix outside(96, 700);
  Matrix first;
  linear_rows(packed, x.data(), 96, nullptr, outside.data(), 700);
  for (const int n : {1, 2}) {
    thread_count.emplace(n);
    Matrix inside(96, 700);
    parallel_for(3, [&](int64_t i) {
      linear_rows(packed, x.data() + i * 32 * 320, 32, nullptr, inside.data() + i * 32 * 700, 700);
    });
    Matrix panels(96, 700);
    linear_panels(packed, x.data(), 96, nullptr, panels.data(), 700);
    EXPECT_EQ(0, std::memcmp(outside.data(), panels.data(), static_cast<size_t>(outside.size()) * 4));
    if (n == 1) first = inside.clone();
    EXPECT_EQ(0, std::memcmp(first.data(), inside.data(), static_cast<size_t>(first.size()) * 4)) << n;
    if (gemm_isa_name().starts_with("avx512")) {  // there, the number of rows does not matter either
      EXPECT_EQ(0, std::memcmp(outside.data(), inside.data(), static_cast<size_t>(outside.size()) * 4)) << n;
    }
  }
  thread_count.reset();
}

TEST(Gemm, RateIsMeasured) {
  EXPECT_GT(gemm_rate(MatmulPrecision::kF32), 1.0);  // GFLOP/s: any machine that runs this
  EXPECT_FALSE(gemm_isa_name().empty());
}

}  // namespace
}  // namespace metal_marlin

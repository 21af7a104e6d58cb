#include "kernels/linear_algebra.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <vector>

#include "core/half.h"
#include "core/random.h"
#include "core/threads.h"
#include "kernels/blas_kernels.h"

namespace metal_marlin {
namespace {

constexpr double kSumError = 2e-6;      // of a float32 sum of some hundred products, relative to the sum of magnitudes
constexpr double kFactorError = 1e-11;  // of a float64 factorization of some hundred rows, relative to the diagonal
constexpr double kFactorErrorF32 = 1e-4;
const float kNan = std::numeric_limits<float>::quiet_NaN();

Matrix random_matrix(int64_t rows, int64_t cols, uint64_t seed) {
  Random random(seed);
  Matrix m(rows, cols);
  for (float& v : m.values()) v = static_cast<float>(random.normal());
  return m;
}

// Positive definite [n, n] in float64: A A^T / n + I / 10.
std::vector<double> positive_definite(int64_t n, uint64_t seed) {
  const Matrix a = random_matrix(n, n, seed);
  std::vector<double> g(static_cast<size_t>(n * n));
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double sum = i == j ? 0.1 : 0.0;
      for (int64_t k = 0; k < n; ++k) sum += static_cast<double>(a(i, k)) * a(j, k) / static_cast<double>(n);
      g[static_cast<size_t>(i * n + j)] = sum;
    }
  }
  return g;
}

template <typename Fn>
void expect_same_bytes_for_threads(const Fn& compute) {
  std::optional<ThreadCount> thread_count;
  thread_count.emplace(1);
  const auto one = compute();
  thread_count.emplace(2);
  const auto two = compute();
  thread_count.emplace(5);
  const auto five = compute();
  thread_count.reset();
  ASSERT_EQ(one.size(), two.size());
  EXPECT_EQ(std::memcmp(one.data(), two.data(), one.size() * sizeof(one[0])), 0);
  EXPECT_EQ(std::memcmp(one.data(), five.data(), one.size() * sizeof(one[0])), 0);
}

TEST(LinearAlgebra, ProductsEqualFloat64InEveryTransposition) {
  constexpr int64_t m = 7, n = 19, k = 33, lead = 40;
  for (const bool ta : {false, true}) {
    for (const bool tb : {false, true}) {
      const Matrix a = random_matrix(lead, lead, 1);
      const Matrix b = random_matrix(lead, lead, 2);
      Matrix c = random_matrix(m, n, 3);
      const Matrix before = c.clone();
      sgemm_tile(ta, tb, m, n, k, -1.5f, a.data(), lead, b.data(), lead, 0.5f, c.data(), n);
      for (int64_t i = 0; i < m; ++i) {
        for (int64_t j = 0; j < n; ++j) {
          double sum = 0.5 * before(i, j);
          for (int64_t l = 0; l < k; ++l) sum -= 1.5 * (ta ? a(l, i) : a(i, l)) * (tb ? b(j, l) : b(l, j));
          EXPECT_NEAR(c(i, j), sum, 100 * kSumError);
        }
      }
    }
  }
}

TEST(LinearAlgebra, QuadraticRowsReadTheUpperHalfOnly) {
  for (const int64_t k : {1, 2, 63, 255, 256, 257, 600}) {
    constexpr int64_t kRows = 5;
    const Matrix e = random_matrix(kRows, k, 10);
    Matrix g = random_matrix(k, k, 11);
    for (int64_t i = 0; i < k; ++i) {
      for (int64_t j = 0; j < i; ++j) g(i, j) = kNan;
    }
    std::vector<float> scratch(static_cast<size_t>(kRows * kQuadraticColumns));
    std::vector<double> out(kRows);
    quadratic_rows(e.data(), kRows, k, g.data(), k, k, scratch.data(), out.data());
    for (int64_t r = 0; r < kRows; ++r) {
      double sum = 0;
      double magnitude = 0;
      for (int64_t i = 0; i < k; ++i) {
        for (int64_t j = i; j < k; ++j) {
          const double term = (i == j ? 1.0 : 2.0) * e(r, i) * g(i, j) * e(r, j);
          sum += term;
          magnitude += std::fabs(term);
        }
      }
      EXPECT_NEAR(out[static_cast<size_t>(r)], sum, kSumError * magnitude) << "k " << k << " row " << r;
    }
  }
}

TEST(LinearAlgebra, GramEqualsFloat64) {
  for (const int64_t k : {1, 5, 191, 192, 193, 450, 800}) {
    for (const int64_t tokens : {1, 7, 130}) {
      const Matrix x = random_matrix(2 * tokens, k, 20);
      Matrix gram(k, k);
      gram_accumulate(x.data(), tokens, k, gram);
      gram_accumulate(x.data() + tokens * k, tokens, k, gram);
      gram_finish(gram, static_cast<uint64_t>(2 * tokens));
      for (int64_t i = 0; i < k; i += std::max<int64_t>(k / 9, 1)) {
        for (int64_t j = 0; j < k; ++j) {
          double sum = 0;
          for (int64_t t = 0; t < 2 * tokens; ++t) sum += static_cast<double>(x(t, i)) * x(t, j);
          ASSERT_NEAR(gram(i, j), sum / static_cast<double>(2 * tokens), 10 * kSumError)
              << i << "," << j << " of " << k;
          ASSERT_EQ(gram(i, j), gram(j, i));
        }
      }
    }
  }
}

TEST(LinearAlgebra, GramOfBF16EqualsFloat64OfTheRoundedValues) {
  if (!has_bf16_gemm()) GTEST_SKIP() << "no bf16 products on this machine";
  for (const int64_t k : {1, 5, 191, 192, 193, 450}) {
    for (const int64_t tokens : {1, 7, 1025}) {
      const Matrix x = random_matrix(tokens, k, 21);
      Matrix rounded = x.clone();
      for (auto& v : rounded.values()) v = bf16_to_f32(f32_to_bf16(v));
      Matrix gram(k, k);
      gram_accumulate(x.data(), tokens, k, gram, MatmulPrecision::kBF16);
      gram_finish(gram, static_cast<uint64_t>(tokens));
      for (int64_t i = 0; i < k; i += std::max<int64_t>(k / 9, 1)) {
        for (int64_t j = 0; j < k; ++j) {
          double sum = 0;
          for (int64_t t = 0; t < tokens; ++t) sum += static_cast<double>(rounded(t, i)) * rounded(t, j);
          ASSERT_NEAR(gram(i, j), sum / static_cast<double>(tokens), 10 * kSumError) << i << "," << j << " of " << k;
          ASSERT_EQ(gram(i, j), gram(j, i));
        }
      }
    }
  }
}

TEST(LinearAlgebra, GramRefusesAnotherSize) {
  const Matrix x = random_matrix(3, 8, 1);
  Matrix gram(8, 7);
  EXPECT_THROW(gram_accumulate(x.data(), 3, 8, gram), ArgumentError);
}

TEST(LinearAlgebra, ScaledGramIsThatOfTheScaledInput) {
  constexpr int64_t k = 70;
  Matrix gram = random_matrix(k, k, 30);
  const Matrix before = gram.clone();
  std::vector<float> scale(k);
  for (int64_t i = 0; i < k; ++i) scale[static_cast<size_t>(i)] = 0.25f + 0.1f * static_cast<float>(i);
  scale_gram(gram, scale);
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = 0; j < k; ++j) {
      const double expected =
          before(i, j) / (static_cast<double>(scale[static_cast<size_t>(i)]) * scale[static_cast<size_t>(j)]);
      EXPECT_NEAR(gram(i, j), expected, 2e-7 * std::fabs(expected));  // two float32 roundings
    }
  }
  scale.pop_back();
  EXPECT_THROW(scale_gram(gram, scale), ArgumentError);
}

template <typename T>
void check_cholesky(double tolerance) {
  for (const int64_t n : {1, 2, 127, 128, 129, 300}) {
    const std::vector<double> g = positive_definite(n, 40);
    std::vector<T> a(g.begin(), g.end());
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = i + 1; j < n; ++j) a[static_cast<size_t>(i * n + j)] = std::numeric_limits<T>::quiet_NaN();
    }
    ASSERT_EQ(cholesky_lower(a.data(), n), -1);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j <= i; ++j) {
        double sum = 0;
        for (int64_t k = 0; k <= j; ++k)
          sum += static_cast<double>(a[static_cast<size_t>(i * n + k)]) * a[static_cast<size_t>(j * n + k)];
        ASSERT_NEAR(sum, g[static_cast<size_t>(i * n + j)], tolerance) << i << "," << j << " of " << n;
      }
      for (int64_t j = i + 1; j < n; ++j) ASSERT_TRUE(std::isnan(a[static_cast<size_t>(i * n + j)]));
    }
  }
}
TEST(LinearAlgebra, CholeskyFloat64) {
  check_cholesky<double>(kFactorError);
}
TEST(LinearAlgebra, CholeskyFloat32) {
  check_cholesky<float>(kFactorErrorF32);
}

TEST(LinearAlgebra, CholeskyNamesTheFirstBadPivot) {
  constexpr int64_t n = 200;
  for (const int64_t bad : {0, 1, 127, 128, 150, 199}) {
    std::vector<double> a(n * n, 0.0);
    for (int64_t i = 0; i < n; ++i) a[static_cast<size_t>(i * n + i)] = i == bad ? -1.0 : 2.0;
    EXPECT_EQ(cholesky_lower(a.data(), n), bad);
  }
}

TEST(LinearAlgebra, InverseOfATriangle) {
  for (const int64_t n : {1, 2, 127, 128, 129, 400}) {
    std::vector<double> l = positive_definite(n, 50);
    ASSERT_EQ(cholesky_lower(l.data(), n), -1);
    std::vector<double> x = l;
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = i + 1; j < n; ++j) x[static_cast<size_t>(i * n + j)] = std::numeric_limits<double>::quiet_NaN();
    }
    invert_lower(x.data(), n);
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j <= i; ++j) {
        double sum = 0;
        for (int64_t k = j; k <= i; ++k) sum += l[static_cast<size_t>(i * n + k)] * x[static_cast<size_t>(k * n + j)];
        ASSERT_NEAR(sum, i == j ? 1.0 : 0.0, kFactorError) << i << "," << j << " of " << n;
      }
    }
  }
}

TEST(LinearAlgebra, BytesDoNotDependOnThreads) {
  constexpr int64_t k = 450;
  const Matrix x = random_matrix(300, k, 60);
  expect_same_bytes_for_threads([&] {
    Matrix gram(k, k);
    gram_accumulate(x.data(), x.rows(), k, gram);
    gram_finish(gram, 300);
    return std::vector<float>(gram.values().begin(), gram.values().end());
  });
  const std::vector<double> g = positive_definite(k, 61);
  expect_same_bytes_for_threads([&] {
    std::vector<double> a = g;
    EXPECT_EQ(cholesky_lower(a.data(), k), -1);
    invert_lower(a.data(), k);
    return a;
  });
  // One tile called from outside any parallel region: large enough for OpenBLAS to want threads.
  const Matrix big = random_matrix(k, k, 62);
  expect_same_bytes_for_threads([&] {
    std::vector<float> c(k * k);
    sgemm_tile(false, true, k, k, k, 1.0f, big.data(), k, big.data(), k, 0.0f, c.data(), k);
    return c;
  });
}

TEST(LinearAlgebra, KernelHasAName) {
  EXPECT_STRNE(blas_kernel_name(), "");
  // A processor that OpenBLAS does not know has kernels of its instruction set, not the oldest there are.
  EXPECT_EQ(fitting_blas_kernels("Zen"), nullptr);
  if (std::getenv("OPENBLAS_CORETYPE") == nullptr)
    EXPECT_EQ(fitting_blas_kernels(blas_kernel_name()), nullptr) << blas_kernel_name();
}

}  // namespace
}  // namespace metal_marlin

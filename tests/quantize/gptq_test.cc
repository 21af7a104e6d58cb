#include "quantize/rounding/gptq.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include <numeric>

#include "quantize/errors.h"
#include "quantize/reference.h"
#include "quantize/rounding/rtn.h"

namespace metal_marlin {
namespace {

using reference::normal_matrix;

// A weight this close to the middle between two codes (in steps) may round either way in float32; after it the rows may
// part, so the comparison of a row ends there.
constexpr double kNearTie = 2e-3;
constexpr double kFactorError = 2e-5;  // of U rounded to float32, relative to its row's diagonal

struct Textbook {
  std::vector<double> inverse;  // H^-1, permuted
  std::vector<double> upper;    // U with H^-1 = U^T U
  std::vector<int> order;
};

// Everything in float64, by Gauss-Jordan and the schoolbook Cholesky.
Textbook textbook_factor(const Matrix& gram, bool act_order, double damping, bool relative) {
  const auto k = static_cast<size_t>(gram.rows());
  Textbook t;
  double mean = 0;
  for (size_t i = 0; i < k; ++i)
    mean += gram(static_cast<int64_t>(i), static_cast<int64_t>(i)) / static_cast<double>(k);
  std::vector<double> diagonal(k);
  for (size_t i = 0; i < k; ++i) {
    const double d = gram(static_cast<int64_t>(i), static_cast<int64_t>(i));
    diagonal[i] = d + (relative ? d : mean) * damping + 1e-7 * mean;
  }
  t.order.resize(k);
  std::iota(t.order.begin(), t.order.end(), 0);
  if (act_order) {
    std::stable_sort(t.order.begin(), t.order.end(),
                     [&](int a, int b) { return diagonal[static_cast<size_t>(a)] > diagonal[static_cast<size_t>(b)]; });
  }
  std::vector<double> h(k * k);
  for (size_t i = 0; i < k; ++i) {
    for (size_t j = 0; j < k; ++j) {
      h[i * k + j] = i == j ? diagonal[static_cast<size_t>(t.order[i])] : gram(t.order[i], t.order[j]);
    }
  }
  t.inverse.assign(k * k, 0);
  for (size_t i = 0; i < k; ++i) t.inverse[i * k + i] = 1;
  for (size_t p = 0; p < k; ++p) {
    const double pivot = h[p * k + p];
    for (size_t c = 0; c < k; ++c) {
      h[p * k + c] /= pivot;
      t.inverse[p * k + c] /= pivot;
    }
    for (size_t r = 0; r < k; ++r) {
      const double factor = h[r * k + p];
      if (r == p || factor == 0) continue;
      for (size_t c = 0; c < k; ++c) {
        h[r * k + c] -= factor * h[p * k + c];
        t.inverse[r * k + c] -= factor * t.inverse[p * k + c];
      }
    }
  }
  t.upper.assign(k * k, 0);
  for (size_t i = 0; i < k; ++i) {
    for (size_t j = i; j < k; ++j) {
      double sum = t.inverse[i * k + j];
      for (size_t m = 0; m < i; ++m) sum -= t.upper[m * k + i] * t.upper[m * k + j];
      t.upper[i * k + j] = i == j ? std::sqrt(sum) : sum / t.upper[i * k + i];
    }
  }
  return t;
}

// Column by column, one row of weights; compares with `codes` until a near-tie. Returns the columns compared.
int64_t compare_row(const float* weights, const Textbook& t, const GroupRanges& ranges, int64_t row,
                    const uint8_t* codes) {
  const size_t k = t.order.size();
  std::vector<double> w(k);
  for (size_t j = 0; j < k; ++j) w[j] = weights[t.order[j]];
  for (size_t j = 0; j < k; ++j) {
    const int column = t.order[j];
    const auto at = static_cast<size_t>(row * ranges.groups() + column / ranges.group_size);
    const double scale = f16_to_f32(ranges.scales[at]);
    const int zero = ranges.zeros[at];
    const double steps = w[j] / scale + zero;
    const double to_middle = std::fabs(steps - std::floor(steps) - 0.5);
    if (to_middle < kNearTie) return static_cast<int64_t>(j);
    const int code = reference::code_of(w[j], scale, zero, 15);
    EXPECT_EQ(codes[column], code) << "row " << row << " step " << j;
    if (codes[column] != code) return static_cast<int64_t>(j);
    const double err = (w[j] - (code - zero) * scale) / t.upper[j * k + j];
    for (size_t l = j + 1; l < k; ++l) w[l] -= err * t.upper[j * k + l];
  }
  return static_cast<int64_t>(k);
}

TEST(Gptq, FactorEqualsTheTextbook) {
  for (const int64_t k : {1, 2, 63, 64, 65, 129, 200}) {
    const Matrix gram = reference::gram_of(reference::activations(2 * k + 5, k, 3));
    for (const bool act_order : {true, false}) {
      for (const bool relative : {true, false}) {
        const Textbook expected = textbook_factor(gram, act_order, 0.01, relative);
        const GptqFactor factor = make_gptq_factor(gram, {act_order, 0.01, relative});
        EXPECT_EQ(factor.retries, 0);
        for (int64_t i = 0; i < k; ++i) {
          ASSERT_EQ(factor.order[static_cast<size_t>(i)], expected.order[static_cast<size_t>(i)]);
          const double unit = expected.upper[static_cast<size_t>(i * k + i)];
          for (int64_t j = 0; j < k; ++j) {
            const double value = expected.upper[static_cast<size_t>(i * k + j)];
            ASSERT_NEAR(factor.upper(i, j), value, kFactorError * (unit + std::fabs(value)))
                << i << "," << j << " of " << k;
          }
        }
      }
    }
  }
}

TEST(Gptq, CodesEqualTheTextbook) {
  struct Case {
    int64_t out, in, group;
  };
  int64_t compared = 0;
  int64_t total = 0;
  for (const Case& c :
       {Case{3, 1, 8}, Case{5, 64, 32}, Case{70, 65, 32}, Case{4, 200, 64}, Case{66, 192, -1}, Case{1, 300, 128}}) {
    const Matrix weight = normal_matrix(c.out, c.in, 5, 0.05);
    const Matrix gram = reference::gram_of(reference::activations(2 * c.in + 5, c.in, 6));
    for (const bool symmetric : {true, false}) {
      for (const bool act_order : {true, false}) {
        const Grid grid{4, symmetric, c.group};
        const GroupRanges ranges = group_ranges(weight, grid, {RangeChoice::kGram}, &gram);
        const Textbook textbook = textbook_factor(gram, act_order, 0.01, true);
        const QuantizedTensor q = quantize_gptq(weight, make_gptq_factor(gram, {act_order}), ranges, grid);
        EXPECT_NO_THROW(validate(q, "q"));
        EXPECT_EQ(q.scales, ranges.scales);
        for (int64_t r = 0; r < c.out; ++r) {
          compared += compare_row(weight.row(r).data(), textbook, ranges, r, q.codes.data() + r * c.in);
          total += c.in;
        }
      }
    }
  }
  EXPECT_GT(compared, total / 2);  // most of the weights were compared, not lost behind near-ties
}

// The factor of S^-1 H S^-1 from that of H, against the textbook on the scaled matrix in H's own order.
TEST(Gptq, AScaledFactorIsThatOfTheScaledGram) {
  constexpr int64_t k = 130;
  const Matrix gram = reference::gram_of(normal_matrix(1000, k, 3));  // well conditioned: float32 is exact enough
  Random random(4);
  std::vector<float> scale;
  for (int64_t i = 0; i < k; ++i) scale.push_back(static_cast<float>(std::exp(0.5 * random.normal())));
  GptqFactor factor = make_gptq_factor(gram);
  const std::vector<int32_t> order = factor.order;
  scale_factor(factor, scale);
  EXPECT_EQ(factor.order, order);
  Matrix scaled(k, k);  // already in the order, so that the textbook leaves it
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = 0; j < k; ++j) {
      const auto a = static_cast<size_t>(order[static_cast<size_t>(i)]);
      const auto b = static_cast<size_t>(order[static_cast<size_t>(j)]);
      scaled(i, j) = static_cast<float>(gram(static_cast<int64_t>(a), static_cast<int64_t>(b)) /
                                        (static_cast<double>(scale[a]) * scale[b]));
    }
  }
  const Textbook expected = textbook_factor(scaled, false, 0.01, true);
  for (int64_t i = 0; i < k; ++i) {
    const double unit = expected.upper[static_cast<size_t>(i * k + i)];
    for (int64_t j = 0; j < k; ++j) {
      const double value = expected.upper[static_cast<size_t>(i * k + j)];
      ASSERT_NEAR(factor.upper(i, j), value, kFactorError * (unit + std::fabs(value))) << i << "," << j;
    }
  }
  std::vector<float> wrong(scale.begin(), scale.end() - 1);
  EXPECT_THROW(scale_factor(factor, wrong), ArgumentError);
}

TEST(Gptq, BeatsRoundingOnOutputs) {
  const Matrix weight = normal_matrix(96, 256, 7, 0.05);
  const Matrix gram = reference::gram_of(reference::activations(1000, 256, 8));
  const Grid grid{4, true, 64};
  const GroupRanges ranges = group_ranges(weight, grid, {RangeChoice::kGram}, &gram);
  const double rtn = linear_errors(weight, quantize_rtn(weight, ranges, grid), &gram).output_error;
  const double gptq =
      linear_errors(weight, quantize_gptq(weight, make_gptq_factor(gram), ranges, grid), &gram).output_error;
  EXPECT_LT(gptq, 0.8 * rtn);
}

TEST(Gptq, WithoutCorrelationItIsRounding) {
  const Matrix weight = normal_matrix(5, 130, 9);
  Matrix gram(130, 130);
  for (int64_t k = 0; k < 130; ++k) gram(k, k) = static_cast<float>(1 + k % 7);
  const Grid grid{4, false, 64};
  const GroupRanges ranges = group_ranges(weight, grid);
  EXPECT_EQ(quantize_gptq(weight, make_gptq_factor(gram), ranges, grid).codes,
            quantize_rtn(weight, ranges, grid).codes);
  // So is an input that never saw a value.
  const GptqFactor silent = make_gptq_factor(Matrix(130, 130));
  EXPECT_EQ(silent.retries, 0);
  EXPECT_EQ(quantize_gptq(weight, silent, ranges, grid).codes, quantize_rtn(weight, ranges, grid).codes);
}

TEST(Gptq, DeadChannelsAreRoundedAndDisturbNobody) {
  Matrix x = reference::activations(400, 96, 10);
  for (int64_t t = 0; t < x.rows(); ++t) x(t, 3) = x(t, 50) = x(t, 95) = 0;
  const Matrix gram = reference::gram_of(x);
  const Matrix weight = normal_matrix(8, 96, 11);
  const Grid grid{4, true, 32};
  const GroupRanges ranges = group_ranges(weight, grid);
  for (const bool act_order : {true, false}) {
    const QuantizedTensor q = quantize_gptq(weight, make_gptq_factor(gram, {act_order}), ranges, grid);
    const QuantizedTensor plain = quantize_rtn(weight, ranges, grid);
    for (int64_t r = 0; r < 8; ++r) {
      for (const int64_t k : {3, 50, 95})
        EXPECT_EQ(q.codes[static_cast<size_t>(r * 96 + k)], plain.codes[static_cast<size_t>(r * 96 + k)]);
    }
  }
}

TEST(Gptq, RaisesTheDampingAndThenNamesTheCause) {
  // Indefinite: [[1, c], [c, 1]] has the eigenvalue 1 - c.
  Matrix gram(2, 2);
  gram(0, 0) = gram(1, 1) = 1;
  gram(0, 1) = gram(1, 0) = 1.05f;
  const GptqFactor factor = make_gptq_factor(gram);
  EXPECT_EQ(factor.retries, 1);
  EXPECT_DOUBLE_EQ(factor.damping, 0.1);
  gram(0, 1) = gram(1, 0) = 100.0f;
  try {
    make_gptq_factor(gram);
    ADD_FAILURE();
  } catch (const NumericError& error) {
    EXPECT_NE(std::string(error.what()).find("damping 10"), std::string::npos) << error.what();
  }
}

TEST(Gptq, Refuses) {
  const Matrix weight = normal_matrix(2, 64, 1);
  const Grid grid{4, true, 32};
  const GroupRanges ranges = group_ranges(weight, grid);
  Matrix gram = reference::gram_of(reference::activations(100, 64, 1));
  EXPECT_THROW(make_gptq_factor(Matrix(3, 4)), ArgumentError);
  EXPECT_THROW(make_gptq_factor(Matrix()), ArgumentError);
  EXPECT_THROW(make_gptq_factor(gram, {true, -1}), ArgumentError);
  EXPECT_THROW(quantize_gptq(weight, make_gptq_factor(Matrix(32, 32)), ranges, grid), ArgumentError);
  gram(3, 7) = std::numeric_limits<float>::infinity();
  EXPECT_THROW(make_gptq_factor(gram), NumericError);
  gram(3, 7) = 0;
  gram(5, 5) = -1;
  EXPECT_THROW(make_gptq_factor(gram), NumericError);
}

TEST(Gptq, BytesDoNotDependOnThreads) {
  const Matrix weight = normal_matrix(200, 300, 3);
  const Matrix gram = reference::gram_of(reference::activations(400, 300, 4));
  const Grid grid{4, false, 64};
  const GroupRanges ranges = group_ranges(weight, grid);
  EXPECT_TRUE(reference::same_bytes_for_threads(
      [&] { return quantize_gptq(weight, make_gptq_factor(gram), ranges, grid).codes; }));
}

// In place but for the factor: far below two float64 squares, and not below the triangles that are written.
TEST(Gptq, MemoryOfTheTriangles) {
  for (const int64_t k : {576, 1536, 4096, 11008}) {
    const double square = static_cast<double>(k) * static_cast<double>(k);
    const auto bytes = static_cast<double>(gptq_memory_bytes(k, 576));
    EXPECT_GE(bytes, 6 * square);
    EXPECT_LE(bytes, 16 * square);
  }
  // The codes of a very tall linear outgrow the factorization.
  EXPECT_GE(gptq_memory_bytes(576, 150000), 576u * 150000);
}

TEST(Gptq, SortedColumnsAreThoseOfActOrder) {
  Matrix weight = normal_matrix(70, 48, 21);
  Matrix gram = reference::gram_of(reference::activations(100, 48, 22));
  for (int64_t k = 0; k < 48; ++k) {  // ties go by index
    gram(7, k) = gram(k, 7) = 0;
    gram(30, k) = gram(k, 30) = 0;
  }
  const Matrix weight_before = weight.clone();
  const Matrix gram_before = gram.clone();
  const std::vector<int32_t> order = sort_columns(weight, gram);
  EXPECT_EQ(order, make_gptq_factor(gram_before).order);
  EXPECT_EQ((std::vector<int32_t>{order[46], order[47]}), (std::vector<int32_t>{7, 30}));
  for (int64_t i = 0; i < 48; ++i) {
    const int64_t from = order[static_cast<size_t>(i)];
    for (int64_t n = 0; n < 70; ++n) ASSERT_EQ(weight(n, i), weight_before(n, from));
    for (int64_t j = 0; j < 48; ++j) ASSERT_EQ(gram(i, j), gram_before(from, order[static_cast<size_t>(j)]));
  }
}

}  // namespace
}  // namespace metal_marlin

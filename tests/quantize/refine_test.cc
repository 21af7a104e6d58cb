#include "quantize/rounding/refine.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>
#include <optional>

#include "quantize/errors.h"
#include "quantize/reference.h"
#include "quantize/rounding/gptq.h"
#include "quantize/rounding/rtn.h"

namespace metal_marlin {
namespace {

using reference::activations;
using reference::gram_of;
using reference::normal_matrix;

constexpr double kDamping = 0.01;
// float32 residuals against float64 ones: a code this close to the middle between two may go either way.
constexpr double kNearTie = 2e-3;

std::vector<double> damped(const Matrix& gram) {
  const int64_t k = gram.rows();
  double mean = 0;
  for (int64_t i = 0; i < k; ++i) mean += gram(i, i) / static_cast<double>(k);
  std::vector<double> h(static_cast<size_t>(k * k));
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = 0; j < k; ++j) h[static_cast<size_t>(i * k + j)] = gram(i, j);
    h[static_cast<size_t>(i * k + i)] += kDamping * gram(i, i) + (mean > 0 ? 1e-7 * mean : 1.0);
  }
  return h;
}

double value(const QuantizedTensor& q, int64_t r, int64_t k) {
  const auto g = static_cast<size_t>(r * q.groups() + k / q.group_size);
  return (static_cast<double>(q.codes[static_cast<size_t>(r * q.in_features + k)]) - q.zeros[g]) *
         f16_to_f32(q.scales[g]);
}

// e H e^T of row r.
double loss(const Matrix& w, const std::vector<double>& h, const QuantizedTensor& q, int64_t r) {
  const int64_t k = w.cols();
  double sum = 0;
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = 0; j < k; ++j) {
      sum += (w(r, i) - value(q, r, i)) * h[static_cast<size_t>(i * k + j)] * (w(r, j) - value(q, r, j));
    }
  }
  return sum;
}

struct Case {
  int64_t rows, cols, group;
  bool symmetric;
  bool signed_scales;
};

class Refine : public ::testing::TestWithParam<Case> {
 protected:
  Refine()
      : grid_{4, GetParam().symmetric, GetParam().group},
        weight_(normal_matrix(GetParam().rows, GetParam().cols, 11, 0.1)),
        gram_(gram_of(activations(3 * GetParam().cols, GetParam().cols, 5))) {}
  QuantizedTensor rounded() const {
    RangeOptions options;
    options.method = RangeChoice::kGram;
    options.signed_scales = GetParam().signed_scales;
    return quantize_rtn(weight_, group_ranges(weight_, grid_, options, &gram_), grid_);
  }
  Grid grid_;
  Matrix weight_;
  Matrix gram_;
};

TEST_P(Refine, OnePassIsCoordinateDescentInFloat64) {
  const std::vector<double> h = damped(gram_);
  const int64_t k = weight_.cols();
  QuantizedTensor q = rounded();
  QuantizedTensor want = q;
  std::vector<bool> tied(static_cast<size_t>(weight_.rows()));
  for (int64_t r = 0; r < weight_.rows(); ++r) {
    for (int64_t c = 0; c < k && !tied[static_cast<size_t>(r)]; ++c) {
      double residual = 0;
      for (int64_t j = 0; j < k; ++j)
        residual += (weight_(r, j) - value(want, r, j)) * h[static_cast<size_t>(c * k + j)];
      uint8_t& code = want.codes[static_cast<size_t>(r * k + c)];
      const double scale = f16_to_f32(want.scales[static_cast<size_t>(r * want.groups() + c / want.group_size)]);
      const double wished = code + residual / (h[static_cast<size_t>(c * k + c)] * scale);
      if (std::fabs(wished - std::floor(wished) - 0.5) < kNearTie) tied[static_cast<size_t>(r)] = true;
      code = static_cast<uint8_t>(std::clamp(std::nearbyint(wished), 0.0, 15.0));
    }
  }
  refine(weight_, gram_, q, {.passes = 1, .refit = false, .damping = kDamping});
  int64_t compared = 0;
  for (int64_t r = 0; r < weight_.rows(); ++r) {
    if (tied[static_cast<size_t>(r)]) continue;
    ++compared;
    for (int64_t c = 0; c < k; ++c) {
      const auto at = static_cast<size_t>(r * k + c);
      ASSERT_EQ(q.codes[at], want.codes[at]) << "row " << r << " column " << c;
    }
  }
  EXPECT_GT(compared, 0);
  EXPECT_EQ(q.scales, want.scales);
}

TEST_P(Refine, NeverRaisesARowsLossAndLowersMost) {
  const std::vector<double> h = damped(gram_);
  const QuantizedTensor before = rounded();
  QuantizedTensor q = before;
  double sum_before = 0;
  double sum = 0;
  for (const bool refit : {false, true}) {
    refine(weight_, gram_, q, {.passes = refit ? 0 : 1, .refit = refit, .damping = kDamping});
    for (int64_t r = 0; r < weight_.rows(); ++r) {
      const double now = loss(weight_, h, q, r);
      EXPECT_LE(now, loss(weight_, h, before, r) * (1 + 1e-5));
      sum += refit ? now : 0;
      sum_before += refit ? loss(weight_, h, before, r) : 0;
    }
  }
  EXPECT_LT(sum, 0.9 * sum_before);
}

// At the optimum of all scales a step of any of them to the next f16 raises the loss, but for the damping's share.
TEST_P(Refine, RefittedScalesAreTheLeastSquaresSolution) {
  const std::vector<double> h = damped(gram_);
  QuantizedTensor q = rounded();
  for (int i = 0; i < 3; ++i)
    refine(weight_, gram_, q, {.passes = 0, .refit = true, .damping = kDamping, .refit_damping = 0});
  int64_t better = 0;
  int64_t tried = 0;
  for (int64_t r = 0; r < std::min<int64_t>(weight_.rows(), 8); ++r) {
    const double least = loss(weight_, h, q, r);
    for (int64_t g = 0; g < q.groups(); ++g) {
      for (const int step : {-4, 4}) {
        QuantizedTensor other = q;
        auto& scale = other.scales[static_cast<size_t>(r * q.groups() + g)];
        scale = static_cast<uint16_t>(scale + step);
        ++tried;
        better += loss(weight_, h, other, r) < least * (1 - 1e-6) ? 1 : 0;
      }
    }
  }
  EXPECT_LE(better, tried / 20) << "of " << tried;
}

TEST_P(Refine, GivesTheSameBytesWithOneAndTwoThreads) {
  QuantizedTensor one = rounded();
  QuantizedTensor two = one;
  std::optional<ThreadCount> thread_count;
  thread_count.emplace(1);
  refine(weight_, gram_, one, {});
  thread_count.emplace(2);
  refine(weight_, gram_, two, {});
  thread_count.reset();
  EXPECT_EQ(one.codes, two.codes);
  EXPECT_EQ(one.scales, two.scales);
}

INSTANTIATE_TEST_SUITE_P(Shapes, Refine,
                         ::testing::Values(Case{70, 128, 32, true, false}, Case{70, 128, 32, true, true},
                                           Case{65, 96, 32, false, false}, Case{3, 200, 64, false, false},
                                           Case{1, 72, 72, true, true}),
                         [](const auto& p) {
                           return std::to_string(p.param.rows) + "x" + std::to_string(p.param.cols) + "g" +
                                  std::to_string(p.param.group) + (p.param.symmetric ? "sym" : "asym") +
                                  (p.param.signed_scales ? "signed" : "");
                         });

TEST(RefineEdges, DeadChannelsAndAGramOfZerosKeepTheNearestCodes) {
  const Matrix weight = normal_matrix(4, 64, 3);
  const Grid grid{4, true, 32};
  const QuantizedTensor before = quantize_rtn(weight, group_ranges(weight, grid), grid);
  QuantizedTensor q = before;
  refine(weight, Matrix(64, 64), q, {.passes = 2, .refit = false});
  EXPECT_EQ(q.codes, before.codes);
}

TEST(RefineEdges, SignedScalesNeverLoseAgainstPositiveOnes) {
  const Matrix weight = normal_matrix(64, 128, 9);
  const Matrix gram = gram_of(activations(400, 128, 2));
  const Grid grid{4, true, 64};
  RangeOptions options;
  options.method = RangeChoice::kGram;
  const GroupRanges plain = group_ranges(weight, grid, options, &gram);
  options.signed_scales = true;
  const GroupRanges both = group_ranges(weight, grid, options, &gram);
  int64_t negative = 0;
  for (size_t i = 0; i < plain.scales.size(); ++i) {
    const auto r = static_cast<int64_t>(i) / plain.groups();
    const int64_t first = static_cast<int64_t>(i) % plain.groups() * 64;
    const auto of = [&](uint16_t bits) {
      return reference::quadratic(reference::rounding_errors(weight.row(r).data() + first, 64, f16_to_f32(bits), 8, 15),
                                  gram, first);
    };
    EXPECT_LE(of(both.scales[i]), of(plain.scales[i]) * (1 + 1e-4));
    negative += f16_to_f32(both.scales[i]) < 0 ? 1 : 0;
  }
  EXPECT_GT(negative, 0);
}

TEST(RefineEdges, WrongShapesAreRefused) {
  const Matrix weight = normal_matrix(4, 64, 3);
  const Grid grid{4, true, 32};
  QuantizedTensor q = quantize_rtn(weight, group_ranges(weight, grid), grid);
  EXPECT_THROW(refine(weight, Matrix(32, 32), q, {}), ArgumentError);
  EXPECT_THROW(refine(normal_matrix(5, 64, 3), Matrix(64, 64), q, {}), ArgumentError);
  EXPECT_THROW(refine(weight, Matrix(64, 64), q, {.passes = -1}), ArgumentError);
}

}  // namespace
}  // namespace metal_marlin

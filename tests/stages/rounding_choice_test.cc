#include "stages/rounding_choice.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include <algorithm>

#include "quantize/errors.h"
#include "quantize/reference.h"
#include "quantize/rounding/refine.h"
#include "quantize/rounding/rtn.h"

namespace metal_marlin {
namespace {

using reference::normal_matrix;

constexpr int64_t kIn = 96;

Matrix rows_of(const Matrix& x, int64_t first, int64_t count) {
  Matrix out(count, x.cols());
  std::copy_n(x.data() + first * x.cols(), count * x.cols(), out.data());
  return out;
}

RoundingTrial trial_of(size_t linears = 1, bool refine = true) {
  RoundingTrial trial;
  trial.rounding.refine = refine;
  trial.grids.assign(linears, Grid{4, true, 32});
  trial.rows = 0;
  trial.ranges = [grid = trial.grids.front()](const Matrix& rows, const Matrix& gram, size_t) {
    return group_ranges(rows, grid, {RangeChoice::kGram}, &gram);
  };
  return trial;
}

struct Split {
  Matrix all, seen, held_back;
  double share;
};

Split split(const Matrix& x, int64_t seen) {
  const int64_t rest = x.rows() - seen;
  return {reference::gram_of(x), reference::gram_of(rows_of(x, 0, seen)), reference::gram_of(rows_of(x, seen, rest)),
          static_cast<double>(rest) / static_cast<double>(x.rows())};
}

// With many tokens everything pays; the errors are those of rounding by the other tokens' own Gram matrix.
TEST(RoundingChoice, TakesTheWholeRecipeWhereItHoldsOnOtherTokens) {
  const Split s = split(reference::activations(4000, kIn, 1), 3500);
  const Matrix q = normal_matrix(40, kIn, 2, 0.05);
  const Matrix k = normal_matrix(24, kIn, 3, 0.02);
  const Matrix* const weights[] = {&q, &k};
  Matrix gram = s.all.clone();
  const RoundingTrial trial = trial_of(2);
  const auto choices = choose_rounding(weights, gram, s.held_back, s.share, trial);
  ASSERT_EQ(choices.size(), 2U);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_TRUE(choices[i].rounding.feedback);
    EXPECT_TRUE(choices[i].rounding.refine);
    EXPECT_LT(choices[i].refined_error, choices[i].feedback_error);
    EXPECT_LT(choices[i].feedback_error, choices[i].nearest_error);
    const GroupRanges ranges = trial.ranges(*weights[i], s.seen, i);
    GptqOptions gptq;
    gptq.damping = choices[i].rounding.gptq.damping;
    QuantizedTensor rounded = quantize_gptq(*weights[i], make_gptq_factor(s.seen, gptq), ranges, trial.grids[i]);
    EXPECT_NEAR(linear_errors(*weights[i], rounded, &s.held_back).output_error, choices[i].feedback_error,
                0.02 * choices[i].feedback_error);
    EXPECT_NEAR(
        linear_errors(*weights[i], quantize_rtn(*weights[i], ranges, trial.grids[i]), &s.held_back).output_error,
        choices[i].nearest_error, 0.02 * choices[i].nearest_error);
  }
  EXPECT_EQ(choices[0].rounding.gptq.damping, choices[1].rounding.gptq.damping);
  for (int64_t i = 0; i < kIn; ++i) {
    for (int64_t j = 0; j < kIn; ++j) EXPECT_NEAR(gram(i, j), s.all(i, j), 1e-5 * (std::fabs(s.all(i, j)) + 1e-3));
  }
}

// Fewer tokens than channels, of noise: what fits them says nothing of others. Each linear gets the least of its
// errors.
TEST(RoundingChoice, FallsBackWhereTheRecipeFitsNoise) {
  const Split s = split(normal_matrix(24 + 2000, kIn, 4), 24);
  const Matrix w = normal_matrix(64, kIn, 5, 0.05);
  const Matrix* const weights[] = {&w};
  Matrix gram = s.all.clone();
  const auto choices = choose_rounding(weights, gram, s.held_back, s.share, trial_of());
  const RoundingChoice& c = choices.front();
  EXPECT_GE(c.rounding.gptq.damping, 0.01 * kRaisedDamping * kRaisedDamping);
  EXPECT_EQ(c.rounding.feedback, c.nearest_error >= std::min(c.feedback_error, c.refined_error));
  // Channels that go together in pairs, in the held-back tokens with the opposite sign: no feedback helps them.
  Matrix x = normal_matrix(1200, kIn, 8);
  for (int64_t t = 0; t < x.rows(); ++t) {
    for (int64_t k = 1; k < kIn; k += 2) x(t, k) = (t < 1000 ? x(t, k - 1) : -x(t, k - 1)) + 0.3f * x(t, k);
  }
  const Split opposite = split(x, 1000);
  Matrix other = opposite.all.clone();
  const RoundingChoice plain =
      choose_rounding(weights, other, opposite.held_back, opposite.share, trial_of(1, false)).front();
  EXPECT_FALSE(plain.rounding.feedback);
  EXPECT_FALSE(plain.rounding.refine);
  EXPECT_LT(plain.nearest_error, std::min(plain.feedback_error, plain.refined_error));
  const auto without = choose_rounding(weights, gram, s.held_back, s.share, trial_of(1, false));
  EXPECT_EQ(without.front().refined_error, without.front().feedback_error);
  EXPECT_FALSE(without.front().rounding.refine);
}

TEST(RoundingChoice, DoesNotDependOnThreadsAndRefusesOtherShapes) {
  const Split s = split(reference::activations(600, kIn, 6), 500);
  const Matrix w = normal_matrix(70, kIn, 7, 0.05);
  const Matrix* const weights[] = {&w};
  EXPECT_TRUE(reference::same_bytes_for_threads([&] {
    Matrix gram = s.all.clone();
    const auto c = choose_rounding(weights, gram, s.held_back, s.share, trial_of());
    std::vector<double> values = {c[0].rounding.gptq.damping, c[0].nearest_error, c[0].feedback_error,
                                  c[0].refined_error};
    values.insert(values.end(), gram.data(), gram.data() + gram.size());
    return values;
  }));
  Matrix gram = s.all.clone();
  EXPECT_THROW(choose_rounding(weights, gram, Matrix(kIn, kIn - 1), 0.1, trial_of()), ArgumentError);
  EXPECT_THROW(choose_rounding(weights, gram, s.held_back, s.share, trial_of(2)), ArgumentError);
}

}  // namespace
}  // namespace metal_marlin

#include "scale/feedback_loss.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include <cmath>

#include "quantize/errors.h"
#include "quantize/group_range.h"
#include "quantize/reference.h"

namespace metal_marlin {
namespace {

using reference::normal_matrix;

constexpr int64_t kIn = 192;

std::vector<float> powers(const Matrix& gram, double exponent) {
  std::vector<float> scale;
  for (int64_t k = 0; k < gram.rows(); ++k) scale.push_back(static_cast<float>(std::pow(gram(k, k), exponent / 2)));
  return scale;
}

// The whole way without short cuts: scale weights and Gram matrix, factorize, choose ranges, round, undo the scale, and
// sum E G E^T in float64.
double plain_loss(const Matrix& weight, const Matrix& gram, const std::vector<float>& scale,
                  const ScaleSearchOptions& options) {
  Matrix scaled = weight.clone();
  for (int64_t r = 0; r < scaled.rows(); ++r) {
    for (int64_t c = 0; c < scaled.cols(); ++c) scaled(r, c) *= scale[static_cast<size_t>(c)];
  }
  Matrix inputs(gram.rows(), gram.cols());
  for (int64_t i = 0; i < gram.rows(); ++i) {
    for (int64_t j = 0; j < gram.cols(); ++j)
      inputs(i, j) = gram(i, j) / (scale[static_cast<size_t>(i)] * scale[static_cast<size_t>(j)]);
  }
  GptqOptions gptq;
  gptq.act_order = false;  // a scaled Gram matrix has another order; the loss keeps that of the first
  const GroupRanges ranges = group_ranges(scaled, options.grid, options.range, &inputs);
  const Matrix rounded = dequantize(quantize_gptq(scaled, make_gptq_factor(inputs, gptq), ranges, options.grid));
  double loss = 0;
  for (int64_t r = 0; r < weight.rows(); ++r) {
    std::vector<double> e;
    for (int64_t c = 0; c < weight.cols(); ++c)
      e.push_back(static_cast<double>(rounded(r, c)) / scale[static_cast<size_t>(c)] - weight(r, c));
    loss += reference::quadratic(e, gram, 0);
  }
  return loss;
}

TEST(FeedbackLoss, EqualsRoundingWithEachScaleAnew) {
  const Matrix q = normal_matrix(30, kIn, 1, 0.05);
  const Matrix v = normal_matrix(10, kIn, 2, 0.03);
  const Matrix* const weights[] = {&q, &v};
  const Matrix all = sample_rows(weights, 0);
  const Matrix gram = reference::gram_of(reference::activations(600, kIn, 3));
  GptqOptions gptq;
  gptq.act_order = false;
  for (const bool symmetric : {true, false}) {
    ScaleSearchOptions options;
    options.grid = Grid{4, symmetric, 64};
    options.rows = 0;
    options.range.method = RangeChoice::kGram;
    options.range.signed_scales = symmetric;
    FeedbackLoss loss(weights, gram, options, gptq);
    // Up, down and back: the factor is brought along from one to the next.
    for (const double exponent : {0.0, 0.25, 0.5, 0.75, 0.1, 0.0}) {
      const std::vector<float> scale = powers(gram, exponent);
      const double expected = plain_loss(all, gram, scale, options);
      EXPECT_NEAR(loss(scale), expected, 0.01 * expected) << exponent;  // a tie that falls the other way is fed back
    }
  }
}

TEST(FeedbackLoss, IsBelowPlainRoundingAndDoesNotDependOnThreads) {
  const Matrix w = normal_matrix(70, kIn, 4, 0.05);
  const Matrix* const weights[] = {&w};
  const Matrix gram = reference::gram_of(reference::activations(600, kIn, 5));
  ScaleSearchOptions options;
  options.grid = Grid{4, true, 64};
  options.rows = 0;
  const std::vector<std::vector<float>> scales = {powers(gram, 0), powers(gram, 0.5)};
  const std::vector<double> plain = gram_losses(weights, gram, scales, options);
  const auto losses = [&] {
    FeedbackLoss loss(weights, gram, options, {});
    return std::vector<double>{loss(scales[0]), loss(scales[1])};
  };
  const std::vector<double> feedback = losses();
  for (size_t i = 0; i < scales.size(); ++i) EXPECT_LT(feedback[i], 0.8 * plain[i]);
  EXPECT_TRUE(reference::same_bytes_for_threads(losses));
}

// A loss with one valley is found with fewer calls; the whole grid finds the same.
TEST(ScaleSearch, StoppingEarlyFindsTheValleyOfTheWholeGrid) {
  const Matrix w = normal_matrix(8, kIn, 6, 0.05);
  const Matrix* const weights[] = {&w};
  ActivationStats stats;
  stats.in_features = kIn;
  stats.tokens = 600;
  const Matrix x = reference::activations(600, kIn, 7);
  stats.gram = reference::gram_of(x);
  for (int64_t k = 0; k < kIn; ++k) stats.rms.push_back(std::sqrt(stats.gram(k, k)));
  stats.mean = stats.max = stats.rms;
  for (const int valley : {0, 1, 2, 7, 10, 18, 19}) {
    int calls = 0;
    int at = 0;
    std::vector<double> exponents;  // recovered from the spread of the scale
    const auto [least, largest] = std::minmax_element(stats.rms.begin(), stats.rms.end());
    const double spread = std::log(*largest / *least);
    ScaleSearchOptions options;
    options.grid = Grid{4, true, 64};
    options.statistic = Statistic::kRms;
    options.loss = [&](std::span<const float> scale) {
      ++calls;
      const auto [low, high] = std::minmax_element(scale.begin(), scale.end());
      at = static_cast<int>(std::lround(std::log(*high / *low) / spread * 20));
      return 1.0 + std::abs(at - valley);
    };
    const InputScale whole = search_scale(LinearInput::kQkv, weights, stats, options);
    const int all = calls;
    calls = 0;
    options.stop_early = true;
    const InputScale early = search_scale(LinearInput::kQkv, weights, stats, options);
    EXPECT_EQ(all, 20);
    EXPECT_LE(calls, 13) << valley;
    EXPECT_EQ(whole.ratio, valley / 20.0);
    EXPECT_EQ(early.ratio, whole.ratio);
    EXPECT_EQ(early.loss_before, whole.loss_before);
    EXPECT_EQ(early.loss_after, whole.loss_after);
  }
}

}  // namespace
}  // namespace metal_marlin

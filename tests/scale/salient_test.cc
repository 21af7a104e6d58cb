#include "scale/salient.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include <numeric>

#include "quantize/reference.h"

namespace metal_marlin {
namespace {

using reference::normal_matrix;

std::vector<float> statistic_of(int64_t k, uint64_t seed) {
  Random random(seed);
  std::vector<float> values(static_cast<size_t>(k));
  for (float& v : values) v = static_cast<float>(std::exp(random.normal()));
  return values;
}

TEST(Salient, TheLargestScoresExactlyAsManyAsAsked) {
  const Matrix a = normal_matrix(30, 50, 1);
  const Matrix b = normal_matrix(7, 50, 2);
  const Matrix* const weights[] = {&a, &b};
  const std::vector<float> statistic = statistic_of(50, 3);
  std::vector<float> scores;
  float largest_stat = *std::max_element(statistic.begin(), statistic.end());
  float largest = 0;
  for (const Matrix* w : weights) {
    for (const float v : w->values()) largest = std::max(largest, std::fabs(v));
  }
  for (const Matrix* w : weights) {
    for (int64_t i = 0; i < w->size(); ++i) {
      scores.push_back(statistic[static_cast<size_t>(i % 50)] / largest_stat *
                       (std::fabs(w->values()[static_cast<size_t>(i)]) / largest));
    }
  }
  std::vector<size_t> order(scores.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t i, size_t j) { return scores[i] > scores[j]; });
  for (const double ratio : {0.0, 1e-5, 0.0003, 0.01, 0.37, 1.0}) {
    const SalientWeights found = find_salient_weights(weights, statistic, ratio);
    const auto count = static_cast<size_t>(std::floor(ratio * 1850 + 0.5));
    EXPECT_EQ(found.count, static_cast<int64_t>(count));
    std::vector<uint8_t> expected(scores.size(), 0);
    for (size_t i = 0; i < count; ++i) expected[order[i]] = 1;
    EXPECT_EQ(found.mask, expected) << ratio;
    for (size_t k = 0; k < 50; ++k) EXPECT_EQ(found.importance[k], statistic[k] / largest_stat);
  }
}

TEST(Salient, TiesFallByIndex) {
  Matrix equal(2, 8);
  for (float& v : equal.values()) v = -0.5f;
  const Matrix zero(2, 8);
  const std::vector<float> ones(8, 1.0f);
  for (const Matrix* w : {static_cast<const Matrix*>(&equal), &zero}) {
    const Matrix* const weights[] = {w};
    const SalientWeights found = find_salient_weights(weights, ones, 0.3);
    EXPECT_EQ(found.count, 5);
    for (size_t i = 0; i < 16; ++i) EXPECT_EQ(found.mask[i], i < 5 ? 1 : 0);
  }
  const Matrix* const weights[] = {&equal};
  const SalientWeights silent = find_salient_weights(weights, std::vector<float>(8, 0.0f), 0.25);
  EXPECT_EQ(silent.count, 4);
  for (const float v : silent.importance) EXPECT_EQ(v, 0.0f);
}

TEST(Salient, Refuses) {
  Matrix w = normal_matrix(2, 8, 1);
  const Matrix* const weights[] = {&w};
  std::vector<float> statistic(8, 1.0f);
  EXPECT_THROW(find_salient_weights(weights, statistic, -0.1), ArgumentError);
  EXPECT_THROW(find_salient_weights(weights, statistic, 1.1), ArgumentError);
  EXPECT_THROW(find_salient_weights(weights, statistic, std::numeric_limits<double>::quiet_NaN()), ArgumentError);
  EXPECT_THROW(find_salient_weights({}, statistic, 0.1), ArgumentError);
  EXPECT_THROW(find_salient_weights(weights, std::vector<float>(7, 1.0f), 0.1), ArgumentError);
  statistic[2] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THROW(find_salient_weights(weights, statistic, 0.1), NumericError);
  statistic[2] = -1;
  EXPECT_THROW(find_salient_weights(weights, statistic, 0.1), NumericError);
  statistic[2] = 1;
  w(0, 0) = std::numeric_limits<float>::infinity();
  EXPECT_THROW(find_salient_weights(weights, statistic, 0.1), NumericError);
}

TEST(Salient, ScalesOnlyTheChannelsThatHoldSalientWeights) {
  constexpr int64_t k = 64;
  Matrix x = reference::normal_matrix(500, k, 1);
  for (int64_t t = 0; t < 500; ++t) {
    x(t, 7) *= 40;
    x(t, 33) *= 25;
  }
  ActivationStats stats;
  stats.in_features = k;
  stats.tokens = 500;
  stats.gram = reference::gram_of(x);
  for (int64_t c = 0; c < k; ++c) {
    double sum = 0;
    for (int64_t t = 0; t < 500; ++t) sum += std::fabs(x(t, c));
    stats.mean.push_back(static_cast<float>(sum / 500));
  }
  const Matrix w = normal_matrix(80, k, 2, 0.05);
  const Matrix* const weights[] = {&w};
  ScaleSearchOptions options;
  options.grid.group_size = 32;
  const SalientScaling found = compute_salient_scaling(LinearInput::kQkv, weights, stats, 0.02, options);
  EXPECT_EQ(found.channels, (std::vector<int32_t>{7, 33}));
  std::vector<float> sorted = stats.mean;
  std::sort(sorted.begin(), sorted.end());
  const double median = (sorted[31] + sorted[32]) / 2.0;
  for (size_t c = 0; c < k; ++c) {
    const double expected = c == 7 || c == 33 ? std::pow(stats.mean[c] / median, found.scale.ratio) : 1.0;
    EXPECT_NEAR(found.scale.scale[c], expected, 1e-5 * expected);
  }
  EXPECT_GT(found.scale.ratio, 0);
  EXPECT_LT(found.scale.loss_after, found.scale.loss_before);

  // No salient weights: nothing is scaled, and nothing gained.
  const SalientScaling none = compute_salient_scaling(LinearInput::kQkv, weights, stats, 0.0, options);
  EXPECT_TRUE(none.channels.empty());
  for (const float s : none.scale.scale) EXPECT_EQ(s, 1.0f);
  EXPECT_EQ(none.scale.loss_after, none.scale.loss_before);
}

}  // namespace
}  // namespace metal_marlin

#include "scale/search.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include "core/threads.h"
#include "quantize/reference.h"

namespace metal_marlin {
namespace {

using reference::normal_matrix;

constexpr double kLossError =
    3e-4;  // float32 codes against float64 ones: a tie that falls the other way moves one weight

ActivationStats stats_of(const Matrix& x) {
  ActivationStats stats;
  const auto k = static_cast<size_t>(x.cols());
  stats.in_features = x.cols();
  stats.tokens = static_cast<uint64_t>(x.rows());
  stats.mean.assign(k, 0);
  stats.max.assign(k, 0);
  stats.rms.assign(k, 0);
  for (size_t c = 0; c < k; ++c) {
    double sum = 0;
    double square = 0;
    for (int64_t t = 0; t < x.rows(); ++t) {
      const double v = std::fabs(x(t, static_cast<int64_t>(c)));
      sum += v;
      square += v * v;
      stats.max[c] = std::max(stats.max[c], static_cast<float>(v));
    }
    stats.mean[c] = static_cast<float>(sum / static_cast<double>(x.rows()));
    stats.rms[c] = static_cast<float>(std::sqrt(square / static_cast<double>(x.rows())));
  }
  stats.gram = reference::gram_of(x);
  return stats;
}

// tr(E G E^T) of the given rows, absmax/7 or min-max, in float64 but for the scaled weight and its f16 scale.
double reference_loss(const std::vector<std::vector<float>>& rows, const Matrix& gram, const std::vector<float>& scale,
                      int64_t group, bool symmetric) {
  double loss = 0;
  for (const std::vector<float>& row : rows) {
    const auto k = static_cast<int64_t>(row.size());
    std::vector<double> e(row.size());
    for (int64_t start = 0; start < k; start += group) {
      const int64_t count = std::min(group, k - start);
      std::vector<float> w;
      for (int64_t c = start; c < start + count; ++c)
        w.push_back(row[static_cast<size_t>(c)] * scale[static_cast<size_t>(c)]);
      const float low = std::min(*std::min_element(w.begin(), w.end()), 0.0f);
      const float high = std::max(*std::max_element(w.begin(), w.end()), 0.0f);
      const double s = round_to_f16(std::max(symmetric ? std::max(high, -low) / 7.0f : (high - low) / 15.0f, 0x1p-14f));
      const int zero = symmetric ? 8 : static_cast<int>(std::clamp(std::nearbyint(-low / s), 0.0, 15.0));
      const std::vector<double> errors = reference::rounding_errors(w.data(), count, s, zero, 15);
      for (int64_t c = 0; c < count; ++c)
        e[static_cast<size_t>(start + c)] = errors[static_cast<size_t>(c)] / scale[static_cast<size_t>(start + c)];
    }
    loss += reference::quadratic(e, gram, 0);
  }
  return loss;
}

std::vector<std::vector<float>> rows_of(std::span<const Matrix* const> weights) {
  std::vector<std::vector<float>> rows;
  for (const Matrix* w : weights) {
    for (int64_t r = 0; r < w->rows(); ++r) rows.emplace_back(w->row(r).begin(), w->row(r).end());
  }
  return rows;
}

TEST(ScaleSearch, EqualsThePublishedSearchInFloat64) {
  constexpr int64_t k = 96;
  const ActivationStats stats = stats_of(reference::activations(400, k, 1));
  const Matrix q = normal_matrix(40, k, 2, 0.05);
  const Matrix v = normal_matrix(13, k, 3, 0.02);
  const Matrix* const weights[] = {&q, &v};
  for (const bool symmetric : {true, false}) {
    for (const Statistic method : {Statistic::kMean, Statistic::kMax, Statistic::kRms}) {
      ScaleSearchOptions options;
      options.grid = Grid{4, symmetric, 32};
      options.statistic = method;
      options.rows = 0;
      const InputScale found = search_scale(LinearInput::kQkv, weights, stats, options);
      double best = std::numeric_limits<double>::infinity();
      double chosen = 0;
      double before = 0;
      std::vector<float> chosen_scale;
      for (int i = 0; i < 20; ++i) {
        std::vector<double> s;
        for (const float x : activation_statistic(stats, method))
          s.push_back(std::pow(std::max(static_cast<double>(x), 1e-4), i / 20.0));
        const double middle = std::sqrt(*std::max_element(s.begin(), s.end()) * *std::min_element(s.begin(), s.end()));
        std::vector<float> scale;
        for (const double value : s) scale.push_back(static_cast<float>(value / middle));
        const double loss = reference_loss(rows_of(weights), stats.gram, scale, 32, symmetric);
        if (i == 0) before = loss;
        best = std::min(best, loss);
        if (found.ratio == i / 20.0) {
          chosen = loss;
          chosen_scale = scale;
        }
      }
      EXPECT_LE(chosen, best * (1 + kLossError));
      EXPECT_NEAR(found.loss_after, chosen, kLossError * chosen);
      EXPECT_NEAR(found.loss_before, before, kLossError * before);
      ASSERT_EQ(found.scale.size(), chosen_scale.size());
      for (size_t c = 0; c < chosen_scale.size(); ++c)
        EXPECT_NEAR(found.scale[c], chosen_scale[c], 1e-6 * chosen_scale[c]);
      EXPECT_GT(found.ratio, 0);  // channels of very different size: some scaling helps
      EXPECT_LT(found.loss_after, 0.9 * found.loss_before);
      EXPECT_EQ(found.input, LinearInput::kQkv);
    }
  }
}

TEST(ScaleSearch, LossesOfEvenlySpacedRows) {
  constexpr int64_t k = 70;  // ragged groups
  const Matrix gram = reference::gram_of(reference::activations(200, k, 1));
  const Matrix a = normal_matrix(10, k, 2);
  const Matrix b = normal_matrix(1, k, 3);
  const Matrix c = normal_matrix(12, k, 4);
  const Matrix* const weights[] = {&a, &b, &c};
  const std::vector<std::vector<float>> all = rows_of(weights);
  std::vector<std::vector<float>> scales(2, std::vector<float>(k, 1.0f));
  for (int64_t i = 0; i < k; ++i) scales[1][static_cast<size_t>(i)] = 0.5f + 0.02f * static_cast<float>(i);
  for (const int64_t wanted : {1, 7, 23, 100, 0}) {
    ScaleSearchOptions options;
    options.grid.group_size = 32;
    options.rows = wanted;
    const int64_t count = wanted == 0 ? 23 : std::min<int64_t>(wanted, 23);
    std::vector<std::vector<float>> rows;
    for (int64_t i = 0; i < count; ++i) rows.push_back(all[static_cast<size_t>(i * 23 / count)]);
    const std::vector<double> losses = gram_losses(weights, gram, scales, options);
    for (size_t i = 0; i < 2; ++i) {
      const double expected = reference_loss(rows, gram, scales[i], 32, true);
      EXPECT_NEAR(losses[i], expected, kLossError * expected) << wanted;
    }
  }
}

TEST(ScaleSearch, GramRangesLowerTheLoss) {
  constexpr int64_t k = 64;
  const ActivationStats stats = stats_of(reference::activations(300, k, 1));
  const Matrix w = normal_matrix(30, k, 2);
  const Matrix* const weights[] = {&w};
  ScaleSearchOptions options;
  options.grid.group_size = 32;
  const InputScale absmax = search_scale(LinearInput::kDown, weights, stats, options);
  options.range.method = RangeChoice::kGram;
  const InputScale gram = search_scale(LinearInput::kDown, weights, stats, options);
  EXPECT_LT(gram.loss_after, absmax.loss_after);
  EXPECT_LT(gram.loss_before, absmax.loss_before);
}

TEST(ScaleSearch, PoolsHeads) {
  const HeadGroups heads{4, 2, 3};
  std::vector<float> scale = {1, 2, 3, 4, 8, 27, 5, 6, 7, 5, 24, 28};
  pool_heads(scale, heads);
  const float expected[] = {2, 4, 9, 2, 4, 9, 5, 12, 14, 5, 12, 14};
  for (size_t i = 0; i < 12; ++i) EXPECT_NEAR(scale[i], expected[i], 1e-5);
  EXPECT_THROW(pool_heads(std::span(scale).first(11), heads), ArgumentError);
  EXPECT_THROW(pool_heads(scale, {4, 3, 3}), ArgumentError);
  EXPECT_THROW(pool_heads(scale, {4, 0, 3}), ArgumentError);

  const ActivationStats stats = stats_of(reference::activations(100, 12, 1));
  const Matrix w = normal_matrix(9, 12, 2);
  const Matrix* const weights[] = {&w};
  ScaleSearchOptions options;
  options.grid.group_size = 4;
  options.heads = heads;
  const InputScale found = search_scale(LinearInput::kO, weights, stats, options);
  for (size_t d = 0; d < 3; ++d) {
    EXPECT_EQ(found.scale[d], found.scale[3 + d]);
    EXPECT_EQ(found.scale[6 + d], found.scale[9 + d]);
  }
}

TEST(ScaleSearch, ACallbackReplacesTheLoss) {
  const ActivationStats stats = stats_of(reference::activations(100, 32, 1));
  const Matrix w = normal_matrix(4, 32, 2);
  const Matrix* const weights[] = {&w};
  ScaleSearchOptions options;
  options.grid.group_size = 32;
  int calls = 0;
  options.loss = [&](std::span<const float> scale) {
    EXPECT_EQ(scale.size(), 32u);
    return std::fabs(++calls - 6.0);  // least at the sixth candidate
  };
  const InputScale found = search_scale(LinearInput::kGateUp, weights, stats, options);
  EXPECT_EQ(calls, 20);
  EXPECT_EQ(found.ratio, 0.25);
  EXPECT_EQ(found.loss_before, 5);
  EXPECT_EQ(found.loss_after, 0);
  options.loss = [](std::span<const float>) { return std::numeric_limits<double>::quiet_NaN(); };
  EXPECT_THROW(search_scale(LinearInput::kGateUp, weights, stats, options), NumericError);
}

TEST(ScaleSearch, SilentChannelsAndZeroWeights) {
  Matrix x = reference::activations(100, 32, 1);
  for (int64_t t = 0; t < 100; ++t) x(t, 5) = 0;
  const ActivationStats stats = stats_of(x);
  const Matrix zero(3, 32);
  const Matrix* const weights[] = {&zero};
  ScaleSearchOptions options;
  options.grid.group_size = 32;
  const InputScale found = search_scale(LinearInput::kQkv, weights, stats, options);
  EXPECT_EQ(found.ratio, 0);  // all losses are 0: the first wins, which scales nothing
  EXPECT_EQ(found.loss_after, 0);
  for (const float s : found.scale) EXPECT_EQ(s, 1.0f);
}

TEST(ScaleSearch, Refuses) {
  ActivationStats stats = stats_of(reference::activations(100, 32, 1));
  Matrix w = normal_matrix(4, 32, 2);
  const Matrix other = normal_matrix(4, 31, 2);
  ScaleSearchOptions options;
  options.grid.group_size = 32;
  const Matrix* const weights[] = {&w};
  const Matrix* const unequal[] = {&w, &other};
  EXPECT_THROW(search_scale(LinearInput::kQkv, {}, stats, options), ArgumentError);
  EXPECT_THROW(search_scale(LinearInput::kQkv, unequal, stats, options), ArgumentError);
  options.ratios = 0;
  EXPECT_THROW(search_scale(LinearInput::kQkv, weights, stats, options), ArgumentError);
  options.ratios = 20;
  options.rows = -1;
  EXPECT_THROW(search_scale(LinearInput::kQkv, weights, stats, options), ArgumentError);
  options.rows = 0;
  w(2, 3) = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THROW(search_scale(LinearInput::kQkv, weights, stats, options), NumericError);
  w(2, 3) = 0;
  stats.mean[7] = std::numeric_limits<float>::infinity();
  EXPECT_THROW(search_scale(LinearInput::kQkv, weights, stats, options), NumericError);
  stats.mean[7] = -1;
  EXPECT_THROW(search_scale(LinearInput::kQkv, weights, stats, options), NumericError);
  stats.mean[7] = 1;
  stats.gram = Matrix();
  EXPECT_THROW(search_scale(LinearInput::kQkv, weights, stats, options), ArgumentError);
  stats.mean.pop_back();
  EXPECT_THROW(search_scale(LinearInput::kQkv, weights, stats, options), ArgumentError);
  EXPECT_THROW(parse_activation_method("median"), ArgumentError);
  EXPECT_EQ(parse_activation_method("max"), Statistic::kMax);
}

TEST(ScaleSearch, BytesDoNotDependOnThreads) {
  const ActivationStats stats = stats_of(reference::activations(300, 300, 1));
  const Matrix w = normal_matrix(300, 300, 2);
  const Matrix* const weights[] = {&w};
  ScaleSearchOptions options;
  options.grid.group_size = 64;
  options.rows = 0;
  EXPECT_TRUE(reference::same_bytes_for_threads([&] {
    InputScale found = search_scale(LinearInput::kQkv, weights, stats, options);
    std::vector<double> all(found.scale.begin(), found.scale.end());
    all.push_back(found.loss_before);
    all.push_back(found.loss_after);
    return all;
  }));
}

// The losses have one minimum here, so the early end finds it, whatever the number of candidates tried at once.
TEST(ScaleSearch, AnEarlyEndFindsTheLeastLoss) {
  constexpr int64_t k = 96;
  const ActivationStats stats = stats_of(reference::activations(400, k, 1));
  const Matrix weight = normal_matrix(300, k, 2, 0.05);
  const Matrix* const weights[] = {&weight};
  for (const RangeChoice method : {RangeChoice::kAbsmax, RangeChoice::kGram}) {
    ScaleSearchOptions options;
    options.grid = {4, true, 32};
    options.range.method = method;
    const InputScale all = search_scale(LinearInput::kQkv, weights, stats, options);
    options.stop_early = true;
    for (const int threads : {1, 2, 3}) {
      const ThreadCount count(threads);
      const InputScale early = search_scale(LinearInput::kQkv, weights, stats, options);
      EXPECT_GT(early.ratio, 0);
      EXPECT_EQ(early.ratio, all.ratio);
      EXPECT_EQ(early.scale, all.scale);
      EXPECT_EQ(early.loss_after, all.loss_after);
    }
  }
}

}  // namespace
}  // namespace metal_marlin

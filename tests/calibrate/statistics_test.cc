#include "calibrate/statistics.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include <cmath>

#include "core/random.h"

namespace metal_marlin {
namespace {

constexpr int64_t kFeatures = 37;  // no multiple of a vector
constexpr double kTolerance = 2e-6;  // f32 products summed in blocks, of 300 values

Matrix activations(int64_t rows, uint64_t seed) {
  Random random(seed);
  Matrix x(rows, kFeatures);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t k = 0; k < kFeatures; ++k) x(r, k) = static_cast<float>(random.normal() * (1 + k % 5) - (k == 3 ? 2 : 0));
  }
  return x;
}

TEST(StatsCollector, EqualsThePlainFormulasInFloat64) {
  const Matrix x = activations(300, 3);
  StatsCollector collector;
  collector.add(Tap::kO, x.data(), 1, kFeatures);
  collector.add(Tap::kO, x.data() + kFeatures, 199, kFeatures);
  collector.add(Tap::kO, x.data() + 200 * kFeatures, 100, kFeatures);
  const auto all = collector.finish();
  const ActivationStats& s = all[static_cast<size_t>(Tap::kO)];
  ASSERT_EQ(s.in_features, kFeatures);
  EXPECT_EQ(s.tokens, 300U);
  for (int64_t k = 0; k < kFeatures; ++k) {
    double mean = 0;
    double square = 0;
    double max = 0;
    for (int64_t r = 0; r < 300; ++r) {
      const double v = x(r, k);
      mean += std::fabs(v) / 300;
      square += v * v / 300;
      max = std::max(max, std::fabs(v));
    }
    const auto i = static_cast<size_t>(k);
    EXPECT_NEAR(s.mean[i], mean, kTolerance * mean);
    EXPECT_NEAR(s.rms[i], std::sqrt(square), kTolerance * std::sqrt(square));
    EXPECT_EQ(s.max[i], static_cast<float>(max));
    for (int64_t m = 0; m < kFeatures; ++m) {
      double sum = 0;
      for (int64_t r = 0; r < 300; ++r) sum += static_cast<double>(x(r, k)) * x(r, m) / 300;
      EXPECT_NEAR(s.gram(k, m), sum, kTolerance * 30) << k << " " << m;  // products up to about 30
      EXPECT_EQ(s.gram(k, m), s.gram(m, k));
    }
  }
  // The other taps saw nothing, and the collector is empty again.
  EXPECT_EQ(all[static_cast<size_t>(Tap::kQkv)].in_features, 0);
  EXPECT_EQ(collector.finish()[static_cast<size_t>(Tap::kO)].tokens, 0U);
}

TEST(StatsCollector, WithoutGramTheRestIsTheSame) {
  const Matrix x = activations(50, 4);
  StatsCollector with;
  StatsCollector without(false);
  for (StatsCollector* c : {&with, &without}) c->hook()(Tap::kDown, x.data(), 50, kFeatures);
  const auto all_with = with.finish();
  const auto all_without = without.finish();
  const ActivationStats& a = all_with[static_cast<size_t>(Tap::kDown)];
  const ActivationStats& b = all_without[static_cast<size_t>(Tap::kDown)];
  EXPECT_EQ(a.mean, b.mean);
  EXPECT_EQ(a.max, b.max);
  EXPECT_EQ(a.rms, b.rms);
  EXPECT_TRUE(b.gram.empty());
  EXPECT_FALSE(a.gram.empty());
}

TEST(StatsCollector, RefusesWhatIsNoNumberAndOtherWidths) {
  for (const float bad : {std::nanf(""), INFINITY, -INFINITY}) {
    Matrix x = activations(20, 5);
    x(19, 36) = bad;
    StatsCollector collector(false);
    collector.add(Tap::kQkv, x.data(), 20, kFeatures);
    EXPECT_THROW(collector.finish(), NumericError) << bad;
  }
  const Matrix x = activations(4, 6);
  StatsCollector collector;
  collector.add(Tap::kQkv, x.data(), 4, kFeatures);
  EXPECT_THROW(collector.add(Tap::kQkv, x.data(), 4, kFeatures - 1), ArgumentError);
  collector.add(Tap::kO, x.data(), 4, kFeatures - 1);  // another tap has its own width
}

}  // namespace
}  // namespace metal_marlin

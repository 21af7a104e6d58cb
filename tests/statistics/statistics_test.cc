#include "statistics/statistics.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/random.h"

namespace metal_marlin {
namespace {

constexpr int64_t kFeatures = 37;    // no multiple of a vector
constexpr double kTolerance = 2e-6;  // f32 products summed in blocks, of 300 values

Matrix activations(int64_t rows, uint64_t seed) {
  Random random(seed);
  Matrix x(rows, kFeatures);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t k = 0; k < kFeatures; ++k)
      x(r, k) = static_cast<float>(random.normal() * (1 + k % 5) - (k == 3 ? 2 : 0));
  }
  return x;
}

TEST(StatsCollector, EqualsThePlainFormulasInFloat64) {
  const Matrix x = activations(300, 3);
  StatsCollector collector;
  collector.add(LinearInput::kO, x.data(), 1, kFeatures);
  collector.add(LinearInput::kO, x.data() + kFeatures, 199, kFeatures);
  collector.add(LinearInput::kO, x.data() + 200 * kFeatures, 100, kFeatures);
  const auto all = collector.finish();
  const ActivationStats& s = all[static_cast<size_t>(LinearInput::kO)];
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
  // The other inputs saw nothing, and the collector is empty again.
  EXPECT_EQ(all[static_cast<size_t>(LinearInput::kQkv)].in_features, 0);
  EXPECT_EQ(collector.finish()[static_cast<size_t>(LinearInput::kO)].tokens, 0U);
}

// Two sequences of one row, an empty one and three longer ones; the batches cut them anywhere.
TEST(StatsCollector, FirstRowsCountAsOftenAsAsked) {
  const std::vector<int64_t> lengths = {1, 120, 0, 79, 1, 99};
  constexpr double kWeight = 7.5;
  const Matrix x = activations(300, 6);
  StatsCollector collector(true, MatmulPrecision::kF32, lengths);
  for (int64_t row = 0, step = 1; row < 300; row += step, step = std::min<int64_t>(step * 2, 300 - row)) {
    for (const LinearInput input : {LinearInput::kQkv, LinearInput::kDown})
      collector.add(input, x.data() + row * kFeatures, step, kFeatures);
  }
  std::vector<int64_t> first;
  int64_t start = 0;
  for (const int64_t length : lengths) {
    if (length > 0) first.push_back(start);
    start += length;
  }
  auto all = collector.finish();
  for (const LinearInput input : {LinearInput::kQkv, LinearInput::kDown}) {
    ActivationStats& s = all[static_cast<size_t>(input)];
    EXPECT_EQ(s.tokens, 300U);
    ASSERT_EQ(s.first_rows.rows(), static_cast<int64_t>(first.size()));
    for (size_t i = 0; i < first.size(); ++i) {
      for (int64_t k = 0; k < kFeatures; ++k) EXPECT_EQ(s.first_rows(static_cast<int64_t>(i), k), x(first[i], k));
    }
    const Matrix before = s.gram.clone();
    const std::vector<float> mean = s.mean;
    weigh_first_rows(s, 1);
    EXPECT_TRUE(std::equal(before.data(), before.data() + before.size(), s.gram.data()));
    weigh_first_rows(s, kWeight);
    EXPECT_EQ(s.mean, mean);
    for (int64_t k = 0; k < kFeatures; ++k) {
      for (int64_t m = 0; m < kFeatures; ++m) {
        double sum = 0;
        for (int64_t r = 0; r < 300; ++r) {
          const bool begins = std::find(first.begin(), first.end(), r) != first.end();
          sum += (begins ? kWeight : 1) * x(r, k) * x(r, m) / 300;
        }
        EXPECT_NEAR(s.gram(k, m), sum, kTolerance * 60) << k << " " << m;
        EXPECT_EQ(s.gram(k, m), s.gram(m, k));
      }
    }
    for (const double bad : {0.5, -1.0, std::nan(""), std::numeric_limits<double>::infinity()}) {
      EXPECT_THROW(weigh_first_rows(s, bad), ArgumentError) << bad;
    }
  }
}

// The last sequences' own Gram matrix and first rows, whatever the batches; those of all rows are what they are without
// it.
TEST(StatsCollector, LastSequencesHaveStatisticsOfTheirOwn) {
  const std::vector<int64_t> lengths = {1, 120, 0, 79, 1, 99, 0};
  const Matrix x = activations(300, 9);
  const auto collect = [&](StatsCollector& c, const float* from, std::vector<int64_t> batches) {
    for (const int64_t rows : batches) {
      c.add(LinearInput::kDown, from, rows, kFeatures);
      from += rows * kFeatures;
    }
    return std::move(c.finish()[static_cast<size_t>(LinearInput::kDown)]);
  };
  StatsCollector plain(true, MatmulPrecision::kF32, lengths);
  const ActivationStats all = collect(plain, x.data(), {300});
  StatsCollector alone(true, MatmulPrecision::kF32, {1, 99});
  const ActivationStats expected = collect(alone, x.data() + 200 * kFeatures, {100});
  for (const std::vector<int64_t>& batches : {std::vector<int64_t>{300}, {200, 100}, {150, 60, 90}, {201, 99}}) {
    StatsCollector collector(true, MatmulPrecision::kF32, lengths, 3);
    const ActivationStats whole = collect(collector, x.data(), batches);
    const auto last = collector.finish_last();
    const ActivationStats& l = last[static_cast<size_t>(LinearInput::kDown)];
    EXPECT_EQ(whole.tokens, 300U);
    EXPECT_EQ(l.tokens, 100U);
    EXPECT_EQ(l.in_features, kFeatures);
    EXPECT_EQ(last[static_cast<size_t>(LinearInput::kO)].in_features, 0);
    ASSERT_EQ(l.first_rows.rows(), 2);
    for (int64_t i = 0; i < l.first_rows.size(); ++i) EXPECT_EQ(l.first_rows.data()[i], expected.first_rows.data()[i]);
    for (int64_t i = 0; i < all.gram.size(); ++i) {
      EXPECT_NEAR(whole.gram.data()[i], all.gram.data()[i], kTolerance * 30);
      EXPECT_NEAR(l.gram.data()[i], expected.gram.data()[i], kTolerance * 30);
    }
  }
  EXPECT_THROW(StatsCollector(true, MatmulPrecision::kF32, lengths, 8), ArgumentError);
  EXPECT_THROW(StatsCollector(true, MatmulPrecision::kF32, {}, 1), ArgumentError);
}

TEST(StatsCollector, FirstRowsAreUnknownWithoutLengthsAndRefusedBeyondThem) {
  const Matrix x = activations(11, 7);
  StatsCollector plain;
  plain.add(LinearInput::kQkv, x.data(), 11, kFeatures);
  ActivationStats s = std::move(plain.finish()[0]);
  EXPECT_EQ(s.first_rows.rows(), 0);
  const Matrix before = s.gram.clone();
  weigh_first_rows(s, 100);
  EXPECT_TRUE(std::equal(before.data(), before.data() + before.size(), s.gram.data()));
  StatsCollector collector(true, MatmulPrecision::kF32, {10});
  EXPECT_THROW(collector.add(LinearInput::kQkv, x.data(), 11, kFeatures), ArgumentError);
}

TEST(StatsCollector, WithoutGramTheRestIsTheSame) {
  const Matrix x = activations(50, 4);
  StatsCollector with;
  StatsCollector without(false);
  for (StatsCollector* c : {&with, &without}) c->hook()(LinearInput::kDown, x.data(), 50, kFeatures);
  const auto all_with = with.finish();
  const auto all_without = without.finish();
  const ActivationStats& a = all_with[static_cast<size_t>(LinearInput::kDown)];
  const ActivationStats& b = all_without[static_cast<size_t>(LinearInput::kDown)];
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
    collector.add(LinearInput::kQkv, x.data(), 20, kFeatures);
    EXPECT_THROW(collector.finish(), NumericError) << bad;
  }
  const Matrix x = activations(4, 6);
  StatsCollector collector;
  collector.add(LinearInput::kQkv, x.data(), 4, kFeatures);
  EXPECT_THROW(collector.add(LinearInput::kQkv, x.data(), 4, kFeatures - 1), ArgumentError);
  collector.add(LinearInput::kO, x.data(), 4, kFeatures - 1);  // another input has its own width
}

}  // namespace
}  // namespace metal_marlin

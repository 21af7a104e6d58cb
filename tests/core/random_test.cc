#include "core/random.h"

#include <gtest/gtest.h>

#include <array>
#include <set>

namespace metal_marlin {
namespace {

TEST(Random, SameSeedSameNumbers) {
  Random a(7, 3);
  Random b(7, 3);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(a.next(), b.next());
}

// The sequence is part of every reproducible output: these values must never change.
TEST(Random, SequenceIsFixed) {
  // SplitMix64 written out again, in its textbook form.
  const auto mix = [](uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  };
  EXPECT_EQ(mix(0x9e3779b97f4a7c15u), 0xe220a8397b1dcdafu);  // the published first output for seed 0
  for (const uint64_t seed : {0u, 42u}) {
    for (const uint64_t stream : {0u, 5u}) {
      uint64_t state = mix(seed + 0x9e3779b97f4a7c15u * (stream + 1));
      Random random(seed, stream);
      for (int i = 0; i < 5; ++i) EXPECT_EQ(random.next(), mix(state += 0x9e3779b97f4a7c15u));
    }
  }
}

TEST(Random, StreamsAndSeedsDiffer) {
  std::set<uint64_t> first;
  for (uint64_t seed = 0; seed < 30; ++seed) {
    for (uint64_t stream = 0; stream < 30; ++stream) first.insert(Random(seed, stream).next());
  }
  // Seed s, stream t + 1 must not repeat seed s + golden ratio, stream t inside small numbers.
  EXPECT_EQ(first.size(), 900u);
}

TEST(Random, MomentsOfUniformAndNormal) {
  Random random(1);
  constexpr int kSamples = 100000;
  double mean = 0;
  double normal_mean = 0;
  double normal_square = 0;
  for (int i = 0; i < kSamples; ++i) {
    const double u = random.uniform();
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    mean += u / kSamples;
    const double g = random.normal();
    normal_mean += g / kSamples;
    normal_square += g * g / kSamples;
  }
  // Five standard errors of each estimate.
  EXPECT_NEAR(mean, 0.5, 5 * 0.2887 / 316);
  EXPECT_NEAR(normal_mean, 0, 5.0 / 316);
  EXPECT_NEAR(normal_square, 1, 5 * 1.4143 / 316);
}

TEST(Random, BelowCoversItsRangeEvenly) {
  Random random(2);
  std::array<int, 7> counts{};
  for (int i = 0; i < 70000; ++i) ++counts.at(random.below(7));
  for (const int count : counts) EXPECT_NEAR(count, 10000, 5 * 93);  // sqrt(70000 * 6 / 49) = 93
  EXPECT_EQ(random.below(1), 0u);
}

}  // namespace
}  // namespace metal_marlin

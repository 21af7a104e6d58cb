#include "text/mixture.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "core/random.h"

namespace metal_marlin {
namespace {

using Counts = std::vector<int64_t>;

Counts apportioned(std::vector<double> weights, Counts capacity, int64_t total) {
  return apportion(weights, capacity, total);
}

TEST(Apportion, GivesTheLargestRemainder) {
  EXPECT_EQ(apportioned({1, 2}, {99, 99}, 9), (Counts{3, 6}));
  EXPECT_EQ(apportioned({1, 1, 1}, {99, 99, 99}, 10), (Counts{4, 3, 3}));  // equal remainders: the first
  EXPECT_EQ(apportioned({5, 3, 1}, {99, 99, 99}, 10), (Counts{6, 3, 1}));  // 5.56 3.33 1.11
  EXPECT_EQ(apportioned({0.5, 1}, {99, 99}, 9), apportioned({1, 2}, {99, 99}, 9));
  EXPECT_EQ(apportioned({1e6, 1e-6}, {99, 99}, 5), (Counts{5, 0}));
  EXPECT_EQ(apportioned({3}, {99}, 7), (Counts{7}));
  EXPECT_EQ(apportioned({}, {}, 7), (Counts{}));
}

TEST(Apportion, FillsUpFromTheOthersWhereOneIsShort) {
  EXPECT_EQ(apportioned({1, 1}, {2, 99}, 10), (Counts{2, 8}));
  EXPECT_EQ(apportioned({4, 1, 1}, {3, 99, 99}, 11), (Counts{3, 4, 4}));
  EXPECT_EQ(apportioned({8, 4, 1}, {3, 4, 99}, 20), (Counts{3, 4, 13}));  // the second becomes short by the first
  EXPECT_EQ(apportioned({1, 1}, {2, 3}, 10), (Counts{2, 3}));
  EXPECT_EQ(apportioned({1, 1}, {0, 99}, 10), (Counts{0, 10}));
}

// What makes an apportionment right, whatever the method: the sum, the capacities, and each share within one of the
// exact one where no capacity stands in the way.
TEST(Apportion, SumsUpAndKeepsTheCapacities) {
  Random random(5);
  for (int round = 0; round < 2000; ++round) {
    const size_t n = 1 + random.below(5);
    std::vector<double> weights;
    Counts capacity;
    for (size_t i = 0; i < n; ++i) {
      weights.push_back(std::pow(10.0, random.uniform() * 4 - 2));
      capacity.push_back(static_cast<int64_t>(random.below(20)));
    }
    const auto total = static_cast<int64_t>(random.below(60));
    const Counts counts = apportion(weights, capacity, total);
    const int64_t all = std::accumulate(capacity.begin(), capacity.end(), int64_t{0});
    EXPECT_EQ(std::accumulate(counts.begin(), counts.end(), int64_t{0}), std::min(total, all));
    bool roomy = true;
    const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
    for (size_t i = 0; i < n; ++i) {
      EXPECT_GE(counts[i], 0);
      EXPECT_LE(counts[i], capacity[i]);
      roomy = roomy && static_cast<double>(capacity[i]) > static_cast<double>(total) * weights[i] / sum + 1;
    }
    for (size_t i = 0; roomy && i < n; ++i) {
      EXPECT_LT(std::abs(static_cast<double>(counts[i]) - static_cast<double>(total) * weights[i] / sum), 1.0);
    }
  }
}

TEST(Interleave, SpreadsTheSourcesEvenly) {
  EXPECT_EQ(interleave(Counts{3}), (Counts{0, 0, 0}));
  EXPECT_EQ(interleave(Counts{2, 4}), (Counts{1, 0, 1, 1, 0, 1}));
  EXPECT_EQ(interleave(Counts{2, 0, 2}), (Counts{0, 2, 0, 2}));
  EXPECT_TRUE(interleave(Counts{}).empty());
  const Counts counts = {7, 20, 33};
  const Counts order = interleave(counts);
  ASSERT_EQ(order.size(), 60U);
  Counts seen(3, 0);
  for (size_t i = 0; i < order.size(); ++i) {
    ++seen[static_cast<size_t>(order[i])];
    for (size_t s = 0; s < 3; ++s) {
      const double share = static_cast<double>(counts[s]) * static_cast<double>(i + 1) / 60;
      EXPECT_LE(std::abs(static_cast<double>(seen[s]) - share), 1.5) << i;
    }
  }
  EXPECT_EQ(seen, counts);
}

}  // namespace
}  // namespace metal_marlin

// The choice against every combination there is.
#include "mixed/knapsack.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "core/random.h"

namespace metal_marlin {
namespace {

struct Best {
  double least_loss = std::numeric_limits<double>::infinity();  // with a cost within the capacity
  uint64_t cost_of_it = 0;                                      // the least of those that reach it
  uint64_t least_cost = std::numeric_limits<uint64_t>::max();   // with a loss within the limit
};

void search(const std::vector<KnapsackItem>& items, size_t at, uint64_t cost, double loss, uint64_t capacity,
            double limit, Best& best) {
  if (at == items.size()) {
    if (cost <= capacity && (loss < best.least_loss || (loss == best.least_loss && cost < best.cost_of_it))) {
      best.least_loss = loss;
      best.cost_of_it = cost;
    }
    if (loss <= limit) best.least_cost = std::min(best.least_cost, cost);
    return;
  }
  for (const KnapsackOption& o : items[at].options)
    search(items, at + 1, cost + o.cost, loss + o.loss, capacity, limit, best);
}

// Losses are multiples of 1/64, so that sums are exact in any order.
std::vector<KnapsackItem> random_items(Random& random, size_t count, uint64_t unit) {
  std::vector<KnapsackItem> items(count);
  for (KnapsackItem& item : items) {
    const auto options = 1 + random.below(4);
    const uint64_t base = random.below(50);
    for (uint32_t o = 0; o < options; ++o)
      item.options.push_back({base + unit * random.below(12), static_cast<double>(random.below(200)) / 64});
  }
  return items;
}

// Whether there is a choice within the capacity, and one within the limit; both are compared with the best of all.
std::pair<bool, bool> expect_best(const std::vector<KnapsackItem>& items, uint64_t capacity, double limit) {
  Best best;
  search(items, 0, 0, 0, capacity, limit, best);
  const auto loss = least_loss(items, capacity);
  const auto cost = least_cost(items, limit);
  EXPECT_EQ(loss.has_value(), std::isfinite(best.least_loss));
  if (loss) {
    EXPECT_EQ(loss->loss, best.least_loss);
    EXPECT_EQ(loss->cost, best.cost_of_it);
    EXPECT_LE(loss->cost, capacity);
    EXPECT_EQ(loss->options.size(), items.size());
    uint64_t sum = 0;
    for (size_t i = 0; i < std::min(items.size(), loss->options.size()); ++i)
      sum += items[i].options.at(loss->options[i]).cost;
    EXPECT_EQ(sum, loss->cost);
  }
  EXPECT_EQ(cost.has_value(), best.least_cost != std::numeric_limits<uint64_t>::max());
  if (cost) {
    EXPECT_EQ(cost->cost, best.least_cost);
    EXPECT_LE(cost->loss, limit);
  }
  return {loss.has_value(), cost.has_value()};
}

TEST(Knapsack, FindsWhatTryingEverythingFinds) {
  Random random(5);
  int none = 0;
  for (int round = 0; round < 400; ++round) {
    const auto items = random_items(random, 1 + random.below(6), round % 3 == 0 ? 1 : 7);
    const uint64_t capacity = random.below(500);
    const double limit = static_cast<double>(random.below(600)) / 64;
    const auto [loss, cost] = expect_best(items, capacity, limit);
    none += loss && cost ? 0 : 1;
  }
  EXPECT_GT(none, 0);
  EXPECT_LT(none, 300);
}

// Costs without a common divisor and losses of any size.
TEST(Knapsack, FindsTheBestOfNumbersWithoutACommonMeasure) {
  Random random(6);
  for (int round = 0; round < 100; ++round) {
    std::vector<KnapsackItem> items(6);
    for (KnapsackItem& item : items) {
      for (int o = 0; o < 4; ++o)
        item.options.push_back({1'000'000'007ULL * (1 + random.below(9)) + random.below(1'000'000), random.uniform()});
    }
    const uint64_t capacity = 15'000'000'000ULL + 1'000'000'000ULL * random.below(20);
    const double limit = 2 * random.uniform();
    expect_best(items, capacity, limit);
  }
}

// Decimal losses, whose sums depend on their order, optima of 0, items without a choice, and limits that are a choice's
// own sum.
TEST(Knapsack, RoundingOfSumsLosesNothing) {
  const std::vector<KnapsackItem> decimal = {{{{0, 0.5}, {1, 0.4}, {2, 0.1 + 0.2}, {3, 0.2}, {4, 0.1}, {5, 0}}}};
  EXPECT_EQ(least_loss(decimal, 7)->loss, 0);
  const std::vector<KnapsackItem> fixed = {{{{1, 0.3}}}, {{{1, 0.2}}}, {{{1, 0.1}}}};
  EXPECT_TRUE(least_cost(fixed, std::numeric_limits<double>::infinity()));
  EXPECT_TRUE(least_cost(fixed, 0.3 + 0.2 + 0.1));
  Random random(8);
  for (int round = 0; round < 3000; ++round) {
    std::vector<KnapsackItem> items(1 + random.below(6));
    for (KnapsackItem& item : items) {
      const auto options = 1 + random.below(5);
      for (uint32_t o = 0; o < options; ++o)
        item.options.push_back({random.below(9), static_cast<double>(random.below(11)) / 10});
    }
    double limit = 0;  // of some choice
    for (const KnapsackItem& item : items) limit += item.options[random.below(item.options.size())].loss;
    if (round % 7 == 0) limit = std::numeric_limits<double>::infinity();
    const uint64_t capacity = random.below(40);
    SCOPED_TRACE(round);
    EXPECT_TRUE(expect_best(items, capacity, limit).second);
  }
}

// Against the table over all capacities, which small numbers allow for as many items as a model has.
TEST(Knapsack, FindsTheBestForAsManyItemsAsLargeModelsHave) {
  Random random(7);
  std::vector<KnapsackItem> items(320);
  for (KnapsackItem& item : items) {
    const double sensitivity = std::exp(3 * random.normal());
    const uint64_t size = 1 + random.below(7);
    for (const uint64_t bits : {12, 13, 16, 17, 18, 20, 32, 33, 64}) {
      item.options.push_back(
          {size * bits, sensitivity * std::exp(-0.35 * static_cast<double>(bits)) * (0.8 + 0.4 * random.uniform())});
    }
  }
  const uint64_t capacity = 320 * 4 * 18;
  std::vector<double> table(capacity + 1, 0);
  for (const KnapsackItem& item : items) {
    std::vector<double> next(capacity + 1, std::numeric_limits<double>::infinity());
    for (const KnapsackOption& o : item.options) {
      for (uint64_t c = o.cost; c <= capacity; ++c) next[c] = std::min(next[c], table[c - o.cost] + o.loss);
    }
    table = next;
  }
  const auto loss = least_loss(items, capacity);
  ASSERT_TRUE(loss);
  EXPECT_LE(loss->cost, capacity);
  EXPECT_NEAR(loss->loss, table[capacity], 1e-12 * table[capacity]);
  const auto cost = least_cost(items, table[capacity] * (1 + 1e-12));
  ASSERT_TRUE(cost);
  EXPECT_LE(cost->cost, loss->cost);
}

TEST(Knapsack, TheEndsOfTheRange) {
  const std::vector<KnapsackItem> items = {{{{10, 3}, {20, 1}}}, {{{5, 2}, {50, 0}}}};
  EXPECT_FALSE(least_loss(items, 14));
  EXPECT_EQ(least_loss(items, 15)->loss, 5);
  EXPECT_EQ(least_loss(items, std::numeric_limits<uint64_t>::max())->loss, 1);
  EXPECT_EQ(least_loss({}, 0)->cost, 0U);
  EXPECT_FALSE(least_cost(items, 0.5));
  EXPECT_EQ(least_cost(items, 1)->cost, 70U);
  EXPECT_EQ(least_cost(items, 5)->cost, 15U);
}

TEST(Knapsack, RefusesWhatIsNoItem) {
  EXPECT_THROW(least_loss(std::vector<KnapsackItem>{{}}, 1), ArgumentError);
  EXPECT_THROW(least_loss(std::vector<KnapsackItem>{{{{1, -1}}}}, 1), ArgumentError);
  EXPECT_THROW(least_cost(std::vector<KnapsackItem>{{{{1, NAN}}}}, 1), ArgumentError);
  EXPECT_THROW(least_loss(std::vector<KnapsackItem>{{std::vector<KnapsackOption>(256)}}, 1), ArgumentError);
  EXPECT_THROW(least_cost(std::vector<KnapsackItem>{{{{1, 1}}}}, NAN), ArgumentError);
  const uint64_t huge = std::numeric_limits<uint64_t>::max();
  EXPECT_THROW(least_loss(std::vector<KnapsackItem>{{{{huge, 0}}}, {{{huge, 0}}}}, 1), ArgumentError);
}

}  // namespace
}  // namespace metal_marlin

// Choosing one of several options for each of many items: exactly, by dynamic programming over what they cost together.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace metal_marlin {

struct KnapsackOption {
  uint64_t cost = 0;
  double loss = 0;  // >= 0
};
struct KnapsackItem {
  std::vector<KnapsackOption> options;  // 1 .. 255, in any order
};
struct KnapsackChoice {
  std::vector<size_t> options;  // of each item
  uint64_t cost = 0;
  double loss = 0;
};

// The table has one column for each multiple of the common divisor of all differences of cost. Where those are more than
// this, costs are rounded up to a coarser unit: the result still keeps its limit, but may miss the best by items units.
inline constexpr uint64_t kKnapsackColumns = uint64_t{1} << 17;

// Least loss (of equal ones least cost) with a cost of at most `capacity`; nothing when even the cheapest options cost more.
// ArgumentError: an item without options, or with too many; a loss that is negative or not finite; costs that overflow.
std::optional<KnapsackChoice> least_loss(std::span<const KnapsackItem> items, uint64_t capacity);
// Least cost with a loss of at most `limit`; nothing when even the options of least loss lose more.
std::optional<KnapsackChoice> least_cost(std::span<const KnapsackItem> items, double limit);

}  // namespace metal_marlin

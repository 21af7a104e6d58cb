// Choosing one of several options for each of many items: the best of all choices, whatever the numbers.
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

// Sums of costs are exact below this.
inline constexpr uint64_t kMostKnapsackCost = uint64_t{1} << 53;

// Item by item the sums are kept that no other beats in cost and loss, but for those that a bound shows to lead nowhere
// (Lagrangian relaxation, at the slope at which the relaxation of the whole problem stops). Time and memory grow with
// how far the relaxation is from the best choice, not with the size of the numbers: hundreds of items take
// milliseconds. Losses are summed in the order of the items.
//
// Least loss (of equal ones least cost) with a cost of at most `capacity`; nothing when even the cheapest options cost
// more. ArgumentError: an item without options, or with too many; a loss that is negative or not finite; costs that
// together reach kMostKnapsackCost; a limit that is NaN.
std::optional<KnapsackChoice> least_loss(std::span<const KnapsackItem> items, uint64_t capacity);
// Least cost (of equal ones least loss) with a loss of at most `limit`; nothing when even the options of least loss
// lose more.
std::optional<KnapsackChoice> least_cost(std::span<const KnapsackItem> items, double limit);

}  // namespace metal_marlin

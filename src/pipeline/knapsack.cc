#include "pipeline/knapsack.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace metal_marlin {
namespace {

// What the options of an item cost beyond its cheapest one.
class Table {
 public:
  Table(std::span<const KnapsackItem> items, uint64_t capacity) : items_(items) {
    uint64_t largest = 0;
    for (const KnapsackItem& item : items) {
      uint64_t most = 0;
      for (const KnapsackOption& o : item.options) {
        const uint64_t extra = o.cost - cheapest(item);
        unit_ = std::gcd(unit_, extra);
        most = std::max(most, extra);
      }
      largest += most;
    }
    capacity = std::min(capacity, largest);
    unit_ = std::max<uint64_t>(unit_, 1);
    if (capacity / unit_ >= kKnapsackColumns) unit_ = capacity / kKnapsackColumns + 1;
    columns_ = static_cast<size_t>(capacity / unit_) + 1;
    fill();
  }

  size_t columns() const noexcept { return columns_; }
  double loss(size_t column) const { return best_[column]; }
  // Of the least loss with a cost of at most `column` units.
  KnapsackChoice choice(size_t column) const {
    KnapsackChoice out;
    out.options.resize(items_.size());
    for (size_t i = items_.size(); i-- > 0;) {
      const size_t o = chosen_[i * columns_ + column];
      out.options[i] = o;
      column -= units(items_[i], o);
    }
    for (size_t i = 0; i < items_.size(); ++i) {  // in order, so that sums do not depend on the way here
      out.cost += items_[i].options[out.options[i]].cost;
      out.loss += items_[i].options[out.options[i]].loss;
    }
    return out;
  }

  static uint64_t cheapest(const KnapsackItem& item) {
    return std::min_element(item.options.begin(), item.options.end(), [](const auto& a, const auto& b) { return a.cost < b.cost; })->cost;
  }

 private:
  size_t units(const KnapsackItem& item, size_t option) const {
    return static_cast<size_t>((item.options[option].cost - cheapest(item) + unit_ - 1) / unit_);
  }
  void fill() {
    best_.assign(columns_, 0);
    chosen_.resize(items_.size() * columns_);
    std::vector<double> next(columns_);
    for (size_t i = 0; i < items_.size(); ++i) {
      std::fill(next.begin(), next.end(), std::numeric_limits<double>::infinity());
      uint8_t* chosen = chosen_.data() + i * columns_;
      std::vector<size_t> order(items_[i].options.size());
      std::iota(order.begin(), order.end(), 0);
      std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return items_[i].options[a].cost < items_[i].options[b].cost; });
      for (const size_t o : order) {
        const size_t extra = units(items_[i], o);
        const double loss = items_[i].options[o].loss;
        for (size_t c = extra; c < columns_; ++c) {
          const double sum = best_[c - extra] + loss;
          if (!(sum < next[c])) continue;
          next[c] = sum;
          chosen[c] = static_cast<uint8_t>(o);
        }
      }
      best_.swap(next);
    }
  }

  std::span<const KnapsackItem> items_;
  uint64_t unit_ = 0;
  size_t columns_ = 1;
  std::vector<double> best_;     // least loss of all items with a cost of at most the column
  std::vector<uint8_t> chosen_;  // [items, columns]
};

// Sum of the cheapest options.
uint64_t check(std::span<const KnapsackItem> items) {
  uint64_t least = 0;
  uint64_t most = 0;
  for (size_t i = 0; i < items.size(); ++i) {
    const auto& options = items[i].options;
    if (options.empty() || options.size() > 255) {
      throw ArgumentError(fmt::format("item {}: expected 1 to 255 options, found {}", i, options.size()));
    }
    uint64_t largest = 0;
    for (const KnapsackOption& o : options) {
      if (!(o.loss >= 0 && std::isfinite(o.loss))) throw ArgumentError(fmt::format("item {}: expected a finite loss >= 0, found {}", i, o.loss));
      largest = std::max(largest, o.cost);
    }
    if (largest > std::numeric_limits<uint64_t>::max() - most) throw ArgumentError(fmt::format("item {}: the costs exceed 64 bits", i));
    most += largest;
    least += Table::cheapest(items[i]);
  }
  return least;
}

}  // namespace

std::optional<KnapsackChoice> least_loss(std::span<const KnapsackItem> items, uint64_t capacity) {
  const uint64_t least = check(items);
  if (least > capacity) return std::nullopt;
  const Table table(items, capacity - least);
  size_t column = table.columns() - 1;
  while (column > 0 && table.loss(column - 1) == table.loss(column)) --column;
  return table.choice(column);
}

std::optional<KnapsackChoice> least_cost(std::span<const KnapsackItem> items, double limit) {
  check(items);
  const Table table(items, std::numeric_limits<uint64_t>::max());
  for (size_t column = 0; column < table.columns(); ++column) {
    if (table.loss(column) <= limit) return table.choice(column);
  }
  return std::nullopt;
}

}  // namespace metal_marlin

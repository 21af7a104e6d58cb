#include "mixed/knapsack.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace metal_marlin {
namespace {

constexpr double kRounding = 1e-9;  // of bounds, relative to the largest sums that they are made of

// An option as the search sees it: `value` is to be least, `use` counts against the budget.
struct Option {
  double value = 0;
  double use = 0;
  uint8_t index = 0;  // in the item
};

// Those that no other beats in both, by growing use and so falling value.
std::vector<Option> undominated(std::vector<Option> options) {
  std::stable_sort(options.begin(), options.end(),
                   [](const Option& a, const Option& b) { return a.use != b.use ? a.use < b.use : a.value < b.value; });
  std::vector<Option> out;
  for (const Option& o : options) {
    if (out.empty() || o.value < out.back().value) out.push_back(o);
  }
  return out;
}

// A step of an item from one corner of the lower convex hull of its options to the next.
struct Step {
  size_t item;
  size_t from;  // places in the item's list of options
  size_t to;
  double gain;  // of value
  double use;
  double slope() const { return gain / use; }
};

std::vector<Step> hull_steps(size_t item, const std::vector<Option>& options) {
  std::vector<size_t> hull;
  for (size_t i = 0; i < options.size(); ++i) {
    const Option& o = options[i];
    while (hull.size() >= 2) {
      const Option& a = options[hull[hull.size() - 2]];
      const Option& b = options[hull.back()];
      if ((b.value - a.value) * (o.use - b.use) <= (o.value - b.value) * (b.use - a.use))
        break;  // b is below the line from a to o
      hull.pop_back();
    }
    hull.push_back(i);
  }
  std::vector<Step> steps;
  for (size_t i = 1; i < hull.size(); ++i) {
    const Option& a = options[hull[i - 1]];
    const Option& b = options[hull[i]];
    steps.push_back({item, hull[i - 1], hull[i], a.value - b.value, b.use - a.use});
  }
  return steps;
}

// Sums are formed in the order of the items everywhere, so that equal choices have equal sums; adding is monotone, so
// what is dominated stays so.
class Search {
 public:
  Search(std::vector<std::vector<Option>> items, double budget) : items_(std::move(items)), budget_(budget) {
    relax();
    least_use_.assign(items_.size() + 1, 0);
    priced_.assign(items_.size() + 1, 0);
    for (size_t i = items_.size(); i-- > 0;) {
      double best = std::numeric_limits<double>::infinity();
      for (const Option& o : items_[i]) best = std::min(best, o.value + price_ * o.use);
      least_use_[i] = least_use_[i + 1] + items_[i].front().use;
      priced_[i] = priced_[i + 1] + best;
    }
    slack_ = kRounding * (most_value_ + priced_[0] + price_ * budget_);
  }

  // The index of each item's option; nothing where the budget does not do.
  std::optional<std::vector<size_t>> run() {
    if (!feasible_) return std::nullopt;
    struct State {
      double value;
      double use;
      uint32_t parent;
      uint8_t option;
    };
    std::vector<std::vector<std::pair<uint32_t, uint8_t>>> trail(items_.size());
    std::vector<State> states = {{0, 0, 0, 0}};
    std::vector<State> next;
    for (size_t i = 0; i < items_.size(); ++i) {
      next.clear();
      for (size_t s = 0; s < states.size(); ++s) {
        for (const Option& o : items_[i]) {
          const State state{states[s].value + o.value, states[s].use + o.use, static_cast<uint32_t>(s), o.index};
          if (promising(state.value, state.use, i + 1)) next.push_back(state);
        }
      }
      std::stable_sort(next.begin(), next.end(), [](const State& a, const State& b) {
        return a.use != b.use ? a.use < b.use : a.value < b.value;
      });
      states.clear();
      for (const State& s : next) {
        if (states.empty() || s.value < states.back().value) states.push_back(s);
      }
      if (states.empty()) return known_;
      if (states.size() > std::numeric_limits<uint32_t>::max())
        throw ArgumentError("the choice of options has too many equals");
      for (const State& s : states) trail[i].emplace_back(s.parent, s.option);
    }
    std::vector<size_t> chosen(items_.size());
    size_t at = states.size() - 1;  // the most use, so the least value
    for (size_t i = items_.size(); i-- > 0;) {
      chosen[i] = trail[i][at].second;
      at = trail[i][at].first;
    }
    return chosen;
  }

 private:
  // Steps of all hulls, the steepest first, as far as the budget goes: the slope of the first that does not fit prices
  // use, and what fits is a choice to beat.
  void relax() {
    std::vector<size_t> places(items_.size(), 0);
    std::vector<Step> steps;
    double use = 0;
    for (size_t i = 0; i < items_.size(); ++i) {
      use += items_[i].front().use;
      most_value_ += items_[i].front().value;
      const auto own = hull_steps(i, items_[i]);
      steps.insert(steps.end(), own.begin(), own.end());
    }
    feasible_ = use <= budget_;
    if (!feasible_) return;
    take(places);
    std::stable_sort(steps.begin(), steps.end(), [](const Step& a, const Step& b) { return a.slope() > b.slope(); });
    bool full = false;
    for (const Step& s : steps) {
      if (places[s.item] != s.from) continue;  // the step before did not fit
      if (use + s.use > budget_) {
        if (!full) price_ = s.slope();
        full = true;
        continue;
      }
      use += s.use;
      places[s.item] = s.to;
    }
    take(places);
  }

  // A choice to beat, where its sums say that it is one.
  void take(const std::vector<size_t>& places) {
    double value = 0;
    double use = 0;
    std::vector<size_t> chosen;
    for (size_t i = 0; i < items_.size(); ++i) {
      const Option& o = items_[i][places[i]];
      value += o.value;
      use += o.use;
      chosen.push_back(o.index);
    }
    if (use > budget_ || value > to_beat_) return;
    to_beat_ = value;
    known_ = std::move(chosen);
  }

  // Whether a choice for the first `done` items can still become as good as the one to beat. Of whole choices the sums
  // decide; of parts, bounds that may be wrong by their rounding.
  bool promising(double value, double use, size_t done) const {
    if (done == items_.size()) return use <= budget_ && value <= to_beat_;
    if (use + least_use_[done] > budget_ + kRounding * budget_) return false;
    return !(value + priced_[done] - price_ * (budget_ - use) > to_beat_ + slack_);
  }

  std::vector<std::vector<Option>> items_;
  double budget_;
  bool feasible_ = false;
  double price_ = 0;       // of a unit of use
  double most_value_ = 0;  // of the options of least use
  double to_beat_ = std::numeric_limits<double>::infinity();
  double slack_ = 0;
  std::vector<size_t> known_;      // the choice to beat
  std::vector<double> least_use_;  // of the items from one on
  std::vector<double> priced_;     // the same, least value + price x use
};

void check(std::span<const KnapsackItem> items) {
  uint64_t most = 0;
  for (size_t i = 0; i < items.size(); ++i) {
    const auto& options = items[i].options;
    if (options.empty() || options.size() > 255) {
      throw ArgumentError(fmt::format("item {}: expected 1 to 255 options, found {}", i, options.size()));
    }
    uint64_t largest = 0;
    for (const KnapsackOption& o : options) {
      if (!(o.loss >= 0 && std::isfinite(o.loss)))
        throw ArgumentError(fmt::format("item {}: expected a finite loss >= 0, found {}", i, o.loss));
      largest = std::max(largest, o.cost);
    }
    if (largest >= kMostKnapsackCost - most) throw ArgumentError(fmt::format("item {}: the costs reach 2^53", i));
    most += largest;
  }
}

// Costs are the use, losses the value, or the other way round.
std::optional<KnapsackChoice> solve(std::span<const KnapsackItem> items, double budget, bool costs_are_use) {
  check(items);
  double most = 0;
  std::vector<std::vector<Option>> options(items.size());
  for (size_t i = 0; i < items.size(); ++i) {
    double largest = 0;
    for (size_t k = 0; k < items[i].options.size(); ++k) {
      const auto cost = static_cast<double>(items[i].options[k].cost);
      const double loss = items[i].options[k].loss;
      options[i].push_back(costs_are_use ? Option{loss, cost, static_cast<uint8_t>(k)}
                                         : Option{cost, loss, static_cast<uint8_t>(k)});
      largest = std::max(largest, options[i].back().use);
    }
    options[i] = undominated(std::move(options[i]));
    most += largest;
  }
  // No sum exceeds `most`: it is formed in the same order.
  const auto chosen = Search(std::move(options), std::min(budget, most)).run();
  if (!chosen) return std::nullopt;
  KnapsackChoice out;
  out.options = *chosen;
  for (size_t i = 0; i < items.size(); ++i) {
    out.cost += items[i].options[out.options[i]].cost;
    out.loss += items[i].options[out.options[i]].loss;
  }
  return out;
}

}  // namespace

std::optional<KnapsackChoice> least_loss(std::span<const KnapsackItem> items, uint64_t capacity) {
  return solve(items, static_cast<double>(std::min(capacity, kMostKnapsackCost)), true);
}

std::optional<KnapsackChoice> least_cost(std::span<const KnapsackItem> items, double limit) {
  if (std::isnan(limit)) throw ArgumentError("limit: expected a number, found NaN");
  return solve(items, limit, false);
}

}  // namespace metal_marlin

#include "plan/most_bytes.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

#include "checkpoint/model_source.h"
#include "mixed/mixed_bits.h"
#include "plan/run_warnings.h"

namespace metal_marlin {
namespace {

// One way to store an item: what the target counts, and what the file takes.
struct Choice {
  double counted = 0;  // bits
  double bytes = 0;
};

// No choice within `capacity` (bits) takes more than this for any multiplier >= 0 (Lagrangian relaxation).
double bound_at(double multiplier, double capacity, const std::vector<std::vector<Choice>>& items) {
  double sum = multiplier * capacity;
  for (const std::vector<Choice>& choices : items) {
    double most = -INFINITY;
    for (const Choice& c : choices) most = std::max(most, c.bytes - multiplier * c.counted);
    sum += most;
  }
  return sum;
}

// The least of these bounds, a convex function of the multiplier.
double least_bound(double capacity, const std::vector<std::vector<Choice>>& items) {
  double low = 0;
  double high = 1;  // byte per bit: eight times what a code takes
  constexpr int kSteps = 100;
  for (int i = 0; i < kSteps; ++i) {
    const double a = low + (high - low) / 3;
    const double b = high - (high - low) / 3;
    if (bound_at(a, capacity, items) <= bound_at(b, capacity, items)) {
      high = b;
    } else {
      low = a;
    }
  }
  return std::min(bound_at(0, capacity, items), bound_at(low, capacity, items));
}

}  // namespace

MostBytes most_bytes(const ModelSource& source, const QuantizeOptions& options, const Recipe& recipe,
                     const std::vector<LayerTensors>& layers, const CheckpointWriter& writer) {
  const std::vector<SensitiveItem> items = sensitive_items(layers, recipe, options);
  std::set<std::string> names;
  double weights = 0;
  for (const SensitiveItem& item : items) {
    names.insert(item.names.begin(), item.names.end());
    weights += static_cast<double>(item.weights);
  }
  // What a linear takes in codes depends on its shape and its grid alone.
  std::map<std::string, std::pair<int64_t, int64_t>> shapes;
  for (const LayerTensors& layer : layers) {
    for (const QuantizedWeight& w : layer.quantized) shapes[w.name] = {w.rows, w.columns};
  }
  std::map<std::tuple<int64_t, int64_t, int, int64_t>, double> known;
  const auto coded_bytes = [&](const std::string& name, const Grid& grid) {
    const auto& [rows, columns] = shapes.at(name);
    const int64_t group = grid.group_of(columns);
    const auto [it, fresh] = known.try_emplace({rows, columns, grid.bits, group}, 0);
    if (fresh) {
      CheckpointPlan plan;
      plan.quantized.push_back({name, rows, columns, group, "", grid.bits, grid.symmetric, grid.block});
      it->second = static_cast<double>(writer.forecast(source, plan).quantized_bytes);
    }
    return it->second;
  };
  // Tensors that stay floats have most bytes where nothing is folded into them, so where all that can be stays in 16
  // bits.
  Recipe unquantized = recipe;
  for (const SensitiveItem& item : items) {
    for (const std::string& name : item.names) unquantized.chosen_grids[name].bits = kUnquantizedBits;
  }
  const std::vector<LayerTensors> floats = planned_layers(source, options, unquantized);
  const WriteReport kept = writer.forecast(source, planned_checkpoint(source, unquantized, floats));
  MostBytes out;
  for (const auto& [name, bytes] : kept.kept) {
    if (names.count(name) == 0) out.kept[name] = bytes;
  }
  std::vector<std::vector<Choice>> choices(items.size());
  for (size_t i = 0; i < items.size(); ++i) {
    for (const BitsOption& option : items[i].options) {
      Choice& choice = choices[i].emplace_back();
      choice.counted = static_cast<double>(option.bits);
      for (const std::string& name : items[i].names) {
        choice.bytes += option.grid.bits == kUnquantizedBits ? static_cast<double>(kept.kept.at(name))
                                                             : coded_bytes(name, option.grid);
      }
    }
  }
  const double capacity = options.target_bits ? std::floor(*options.target_bits * weights) : INFINITY;
  // With a multiplier the sums are rounded: a little more than the bound is a bound.
  const double bound =
      std::isfinite(capacity) ? std::ceil(least_bound(capacity, choices) * (1 + 1e-12)) : bound_at(0, 0, choices);
  out.linears = static_cast<uint64_t>(bound);
  return out;
}

}  // namespace metal_marlin

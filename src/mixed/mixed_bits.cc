#include "mixed/mixed_bits.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <charconv>
#include <set>

#include "mixed/knapsack.h"
#include "recipe/linear_bits.h"

namespace metal_marlin {
namespace {

uint64_t weights_of(const Sensitivity& s) {
  uint64_t sum = 0;
  for (const SensitiveItem& item : s.items) sum += item.weights;
  return sum;
}

std::vector<KnapsackItem> knapsack_items(const Sensitivity& s, double scale) {
  std::vector<KnapsackItem> items(s.items.size());
  for (size_t i = 0; i < items.size(); ++i) {
    for (const BitsOption& o : s.items[i].options) items[i].options.push_back({o.bits, o.kl * scale});
  }
  return items;
}

constexpr int64_t kLargestChosenGroup = 128;

// Those that every format can hold for all linears of an item.
std::vector<Grid> holdable(const std::vector<Grid>& grids, const std::vector<const QuantizedWeight*>& weights,
                           const QuantizeOptions& options) {
  std::vector<Grid> out;
  const auto layouts = layouts_of(options);
  for (const Grid& grid : grids) {
    const bool held =
        grid.bits == kUnquantizedBits || std::all_of(weights.begin(), weights.end(), [&](const QuantizedWeight* w) {
          if (grid.group_size > 0 && w->columns % grid.group_size != 0) return false;
          return std::all_of(layouts.begin(), layouts.end(), [&](const Layout* layout) {
            return layout->refusal(w->rows, w->columns, grid.group_of(w->columns), grid.bits).empty();
          });
        });
    if (held) out.push_back(grid);
  }
  return out;
}

GridRecord grid_record(const BitsOption& o) {
  return {o.grid.bits, o.grid.group_size, o.grid.symmetric, static_cast<int64_t>(o.bits), o.kl};
}

}  // namespace

uint64_t storage_bits(int64_t rows, int64_t columns, const Grid& grid) {
  const auto n = static_cast<uint64_t>(rows);
  const auto k = static_cast<uint64_t>(columns);
  if (grid.bits == kUnquantizedBits) return n * k * 16;
  const auto group = static_cast<uint64_t>(grid.group_of(columns));
  const auto bits = static_cast<uint64_t>(grid.bits);
  const uint64_t beside = grid.symmetric ? 0 : grid.minimum ? 16 : bits;  // the scale
  return n * (k * bits + (k + group - 1) / group * (16 + beside));
}

double Sensitivity::interaction() const {
  double sum = 0;
  for (const SensitiveItem& item : items) sum += item.kl;
  return sum > 0 ? kl_together / sum : 1;
}

std::vector<Grid> grid_choices(const QuantizeOptions& options, const Recipe& recipe) {
  const auto layouts = layouts_of(options);
  std::vector<Grid> out = {recipe.grid};
  const bool one_grid =
      std::any_of(layouts.begin(), layouts.end(), [&](const Layout* l) { return l->one_grid(recipe.grid.symmetric); });
  if (!one_grid) {
    const int64_t usual = recipe.grid.group_size;
    for (const int64_t size : {2 * usual, usual / 2, usual / 4}) {
      const bool held =
          std::all_of(layouts.begin(), layouts.end(), [&](const Layout* l) { return size >= l->least_group(); });
      if (!held || size > kLargestChosenGroup || size % 8 != 0) continue;
      Grid grid = recipe.grid;
      grid.group_size = size;
      out.push_back(grid);
    }
    for (const int bits : {3, 4, 5, 6, 8}) {
      Grid grid = recipe.grid;
      grid.bits = bits;
      const bool held =
          std::all_of(layouts.begin(), layouts.end(), [&](const Layout* l) { return l->holds_width(bits); });
      if (bits != recipe.grid.bits && held) out.push_back(grid);
    }
  }
  Grid whole = recipe.grid;
  whole.bits = kUnquantizedBits;
  out.push_back(whole);
  return out;
}

std::vector<SensitiveItem> sensitive_items(const std::vector<LayerTensors>& layers, const Recipe& recipe,
                                           const QuantizeOptions& options) {
  const std::vector<Grid> choices = grid_choices(options, recipe);
  std::vector<SensitiveItem> items;
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    for (int t = 0; t < kLinearInputs; ++t) {
      SensitiveItem item;
      item.layer = static_cast<int64_t>(layer);
      item.input = static_cast<LinearInput>(t);
      std::vector<const QuantizedWeight*> weights;
      for (const QuantizedWeight& w : layers[layer].quantized) {
        if (input_of(w.slots.front().kind) != item.input) continue;
        item.names.push_back(w.name);
        item.weights += static_cast<uint64_t>(w.rows) * static_cast<uint64_t>(w.columns);
        weights.push_back(&w);
      }
      if (weights.empty()) continue;
      const bool fixed = recipe.grids.count(item.names.front()) > 0;
      for (const Grid& grid : fixed ? std::vector<Grid>{weights.front()->grid} : holdable(choices, weights, options)) {
        BitsOption option{grid, 0, 0};
        for (const QuantizedWeight* w : weights) option.bits += storage_bits(w->rows, w->columns, grid);
        item.options.push_back(option);
      }
      items.push_back(std::move(item));
    }
  }
  return items;
}

void check_reachable(const std::vector<SensitiveItem>& items, const QuantizeOptions& options) {
  if (!options.target_bits) return;
  uint64_t least = 0;
  uint64_t weights = 0;
  for (const SensitiveItem& item : items) {
    weights += item.weights;
    least += std::min_element(item.options.begin(), item.options.end(), [](const auto& a, const auto& b) {
               return a.bits < b.bits;
             })->bits;
  }
  const auto count = static_cast<double>(weights);
  if (least <= static_cast<uint64_t>(*options.target_bits * count)) return;
  throw ArgumentError("target-bits", fmt::format("--target-bits {:g}: the fewest bits that the formats hold take "
                                                 "{:.3f} per weight, scales and zeros included; "
                                                 "give more, or larger groups",
                                                 *options.target_bits, static_cast<double>(least) / count));
}

BitsChoice choose_bits(const Sensitivity& s, const QuantizeOptions& options) {
  const uint64_t weights = weights_of(s);
  const auto count = static_cast<double>(weights);
  const auto items = knapsack_items(s, s.interaction());
  std::optional<KnapsackChoice> choice;
  if (options.target_bits) {
    check_reachable(s.items, options);
    choice = least_loss(items, static_cast<uint64_t>(*options.target_bits * count));
    if (!choice)
      throw ArgumentError("target-bits",
                          fmt::format("--target-bits {:g}: no bits meet it; give more", *options.target_bits));
  } else {
    choice = least_cost(items, *options.max_kl);
    if (!choice)
      throw ArgumentError("max-kl",
                          fmt::format("--max-kl {:g}: no bits meet it with linears of fixed --linear-bits; give more",
                                      *options.max_kl));
  }
  const auto kept = [&](size_t i) { return s.items[i].options[choice->options[i]].grid.bits == kUnquantizedBits; };
  size_t quantized = 0;
  for (size_t i = 0; i < s.items.size(); ++i) quantized += kept(i) ? 0 : 1;
  if (quantized == 0) {
    throw ArgumentError(
        options.target_bits ? "target-bits" : "max-kl",
        options.target_bits
            ? fmt::format("--target-bits {:g}: leaves every linear in 16 bits; give fewer", *options.target_bits)
            : fmt::format("--max-kl {:g}: only 16 bits for every linear meet it by the estimate; give more",
                          *options.max_kl));
  }
  return {std::move(choice->options), weights > 0 ? static_cast<double>(choice->cost) / count : 0, choice->loss};
}

LinearGrids grids_of(const Sensitivity& s, const BitsChoice& choice) {
  LinearGrids out;
  for (size_t i = 0; i < s.items.size(); ++i) {
    for (const std::string& name : s.items[i].names) out[name] = s.items[i].options[choice.options[i]].grid;
  }
  return out;
}

SensitivityRecord record_of(const Sensitivity& s) {
  SensitivityRecord out;
  out.sequences = s.sequences;
  out.tokens = s.tokens;
  out.statistics_tokens = s.statistics_tokens;
  out.kl_together = s.kl_together;
  for (const SensitiveItem& item : s.items) {
    SensitivityItem& record = out.items.emplace_back();
    record.layer = item.layer;
    record.tap = input_name(item.input);
    record.linears = item.names;
    record.weights = static_cast<int64_t>(item.weights);
    record.kl = item.kl;
    record.kl_standard_error = item.kl_standard_error;
    for (const BitsOption& o : item.options) record.options.push_back(grid_record(o));
  }
  return out;
}

bool take_measured(const SensitivityRecord& record, Sensitivity& sensitivity) {
  const auto plausible = [](double value) { return value >= 0 && value <= 1e15; };
  const auto count = [&](int64_t value) { return plausible(static_cast<double>(value)); };
  if (!count(record.sequences) || !count(record.tokens) || !count(record.statistics_tokens) ||
      !plausible(record.kl_together) || record.items.size() != sensitivity.items.size()) {
    return false;
  }
  Sensitivity taken = sensitivity;
  taken.sequences = record.sequences;
  taken.tokens = record.tokens;
  taken.statistics_tokens = record.statistics_tokens;
  taken.kl_together = record.kl_together;
  for (size_t i = 0; i < taken.items.size(); ++i) {
    SensitiveItem& item = taken.items[i];
    const SensitivityItem& from = record.items[i];
    if (!plausible(from.kl) || !plausible(from.kl_standard_error) || from.linears != item.names ||
        from.options.size() != item.options.size()) {
      return false;
    }
    item.kl = from.kl;
    item.kl_standard_error = from.kl_standard_error;
    for (size_t k = 0; k < item.options.size(); ++k) {
      const GridRecord expected = grid_record(item.options[k]);
      const GridRecord& grid = from.options[k];
      if (!plausible(grid.estimated_kl) || grid.bits != expected.bits || grid.group_size != expected.group_size ||
          grid.symmetric != expected.symmetric || grid.storage_bits != expected.storage_bits) {
        return false;
      }
      item.options[k].kl = grid.estimated_kl;
    }
  }
  sensitivity = std::move(taken);
  return true;
}

MixedRecord mixed_record(const Sensitivity& s, const BitsChoice& choice, const QuantizeOptions& options) {
  MixedRecord out;
  static_cast<SensitivityRecord&>(out) = record_of(s);
  out.interaction = s.interaction();
  out.target_bits = options.target_bits;
  out.bits_per_weight = choice.bits_per_weight;
  out.estimated_kl = choice.kl;
  for (size_t i = 0; i < s.items.size(); ++i) {
    const BitsOption& o = s.items[i].options[choice.options[i]];
    out.items[i].chosen = {o.grid.bits, o.grid.group_size, o.kl};
  }
  return out;
}

double file_bits_per_weight(const MixedRecord& mixed, const WriteReport& written) {
  std::set<std::string> names;
  double weights = 0;
  for (const SensitivityItem& item : mixed.items) {
    weights += static_cast<double>(item.weights);
    names.insert(item.linears.begin(), item.linears.end());
  }
  uint64_t bytes = written.quantized_bytes;
  for (const SkippedTensor& s : written.skipped) {
    if (names.count(s.name) > 0) bytes += s.bytes;
  }
  return weights > 0 ? 8.0 * static_cast<double>(bytes) / weights : 0;
}

}  // namespace metal_marlin

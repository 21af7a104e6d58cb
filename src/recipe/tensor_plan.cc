#include "recipe/tensor_plan.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <fnmatch.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <array>

#include "layouts/layouts.h"
#include "recipe/format_grid.h"

namespace metal_marlin {

bool matches_any(const std::vector<std::string>& patterns, const std::string& name) {
  return std::any_of(patterns.begin(), patterns.end(),
                     [&](const std::string& p) { return fnmatch(p.c_str(), name.c_str(), 0) == 0; });
}

QuantizedLinear planned_linear(const QuantizedWeight& w) {
  return {w.name, w.rows, w.columns, w.grid.group_of(w.columns), "", w.grid.bits, w.grid.symmetric, w.grid.block};
}

OuterTypes outer_types(const QuantizeOptions& options) {
  const auto named = [](const char* option, const std::optional<std::string>& name) -> std::optional<GgmlType> {
    if (!name) return std::nullopt;
    if (const auto type = outer_type_named(*name)) return type;
    throw ArgumentError(option, fmt::format("--{}: expected one of {}, found \"{}\"", option,
                                            fmt::join(outer_type_names(), ", "), *name));
  };
  std::optional<int> bits;
  if (options.embedding_bits != kUnquantizedBits) bits = options.embedding_bits;
  return {named("embedding-type", options.embedding_type), named("head-type", options.head_type), bits};
}

LinearPlace place_of(const ModelSource& source, int64_t layer, const QuantizedWeight& w) {
  const LinearKind first = w.slots.front().kind;
  return {.kind = first,
          .fused_qkv = first == LinearKind::kQ && w.slots.size() > 1,
          .layer = layer,
          .layers = source.config().num_hidden_layers,
          .columns = w.columns};
}

LayerTensors layer_tensors(const ModelSource& source, int64_t layer, const QuantizeOptions& options) {
  LayerTensors out;
  std::vector<QuantizedWeight> weights;
  for (LinearSlot& slot : source.linears(layer)) {
    const auto it =
        std::find_if(weights.begin(), weights.end(), [&](const QuantizedWeight& w) { return w.name == slot.weight; });
    QuantizedWeight& w =
        it != weights.end() ? *it : weights.emplace_back(QuantizedWeight{slot.weight, {}, 0, slot.columns, {}});
    w.rows += slot.rows;
    w.slots.push_back(std::move(slot));
  }
  // Engines load q,k,v and gate,up as one matrix: a mixture of 4 and 16 bits inside one cannot be loaded.
  std::array<std::string, kLinearInputs> skipped_by;
  for (const QuantizedWeight& w : weights) {
    if (matches_any(options.skip, w.name)) skipped_by[static_cast<size_t>(input_of(w.slots.front().kind))] = w.name;
  }
  for (QuantizedWeight& w : weights) {
    if (w.columns % 8 != 0) {
      out.skipped.push_back(
          {w.name, fmt::format("in_features {} is no multiple of 8, which every layout needs", w.columns)});
      continue;
    }
    const std::string& by = skipped_by[static_cast<size_t>(input_of(w.slots.front().kind))];
    if (by.empty()) {
      out.quantized.push_back(std::move(w));
    } else if (matches_any(options.skip, w.name)) {
      out.skipped.push_back({w.name, "--skip"});
    } else {
      out.skipped.push_back({w.name, "fused at load with " + by + ", which --skip names"});
    }
  }
  return out;
}

LayerTensors planned_tensors(const ModelSource& source, int64_t layer, const QuantizeOptions& options,
                             const Recipe& recipe) {
  LayerTensors tensors = layer_tensors(source, layer, options);
  const Layout* own = format_with_own_grid(options);
  std::vector<QuantizedWeight> kept;
  for (QuantizedWeight& w : tensors.quantized) {
    w.grid = recipe.grid;
    // Without a grid the refusals below say why.
    if (own != nullptr) w.grid = own->own_grid(place_of(source, layer, w)).value_or(recipe.grid);
    std::string reason;
    const auto named = recipe.grids.find(w.name);
    const auto chosen = recipe.chosen_grids.find(w.name);
    if (named != recipe.grids.end()) w.grid = named->second;
    if (named == recipe.grids.end() && chosen != recipe.chosen_grids.end()) w.grid = chosen->second;
    if (w.grid.bits == kUnquantizedBits) {
      tensors.skipped.push_back(
          {w.name, named != recipe.grids.end() ? "--linear-bits" : "16 bits chosen by its share of the KL divergence"});
      continue;
    }
    for (const std::string& format : options.formats) {
      const std::string r = layout_named(format).refusal(w.rows, w.columns, w.grid.group_of(w.columns), w.grid.bits);
      if (reason.empty() && !r.empty()) reason = fmt::format("{}: {}", format, r);
    }
    if (reason.empty()) {
      kept.push_back(std::move(w));
    } else {
      tensors.skipped.push_back({w.name, reason});
    }
  }
  tensors.quantized = std::move(kept);
  return tensors;
}

std::vector<LayerTensors> planned_layers(const ModelSource& source, const QuantizeOptions& options,
                                         const Recipe& recipe) {
  std::vector<LayerTensors> layers;
  for (int64_t layer = 0; layer < source.config().num_hidden_layers; ++layer)
    layers.push_back(planned_tensors(source, layer, options, recipe));
  return layers;
}

void require_quantized(const ModelSource& source, const std::vector<LayerTensors>& layers) {
  if (std::any_of(layers.begin(), layers.end(), [](const LayerTensors& l) { return !l.quantized.empty(); })) return;
  throw ArgumentError(fmt::format("{}: nothing is left to quantize: every linear is skipped (the first, {}: {})",
                                  source.path(), layers.front().skipped.front().name,
                                  layers.front().skipped.front().reason));
}

}  // namespace metal_marlin

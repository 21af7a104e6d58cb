#include "recipe/linear_bits.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <charconv>

#include "options/choices.h"
#include "options/sources.h"
#include "pack/group_arrays.h"
#include "recipe/format_grid.h"
#include "recipe/pattern_hint.h"
#include "recipe/tensor_plan.h"

namespace metal_marlin {
namespace {

std::string grid_name(const Grid& grid) {
  if (grid.bits == kUnquantizedBits) return "16 bits";
  return fmt::format("{} bits in groups of {}", grid.bits,
                     grid.group_size < 0 ? "a whole row" : fmt::format("{}", grid.group_size));
}

struct BitsPattern {
  std::string pattern;
  Grid grid;
  std::string text;  // as given
};

BitsPattern parse_pattern(const std::string& text, const Grid& usual) {
  const auto fail = [&] {
    throw ArgumentError(
        "linear-bits",
        fmt::format("--linear-bits: expected PATTERN=BITS or PATTERN=BITS:GROUP with BITS of 2 to 8 or 16, such as "
                    "'*.down_proj.*=8', found '{}'",
                    text));
  };
  const size_t at = text.rfind('=');
  if (at == std::string::npos || at == 0) fail();
  const auto number = [&](size_t first, size_t last) {
    int64_t value = 0;
    const auto [end, code] = std::from_chars(text.data() + first, text.data() + last, value);
    if (code != std::errc() || end != text.data() + last) fail();
    return value;
  };
  const size_t colon = text.find(':', at);
  BitsPattern out{text.substr(0, at), usual, text};
  const int64_t bits = number(at + 1, std::min(colon, text.size()));
  if (bits != kUnquantizedBits && (bits < 2 || bits > 8)) fail();
  out.grid.bits = static_cast<int>(bits);
  if (colon != std::string::npos) {
    out.grid.group_size = number(colon + 1, text.size());
    const int64_t g = out.grid.group_size;
    if (bits == kUnquantizedBits || g < -1 || g == 0 || (g > 0 && g % 8 != 0)) fail();
  }
  return out;
}

// ArgumentError where one of the formats cannot store the linear so.
void require_holdable(const BitsPattern& p, const QuantizedWeight& w, const QuantizeOptions& options,
                      const Recipe& recipe) {
  if (p.grid.bits == kUnquantizedBits) return;
  if (p.grid.group_size > 0 && w.columns % p.grid.group_size != 0) {
    throw ArgumentError(
        "linear-bits",
        fmt::format("--linear-bits {}: groups of {} do not divide the in_features {} of {}; choose another size",
                    p.text, p.grid.group_size, w.columns, w.name));
  }
  for (const Layout* layout : layouts_of(options)) {
    std::string reason;
    if (layout->one_grid(recipe.grid.symmetric) && !same_grid(p.grid, recipe.grid)) {
      reason = fmt::format("has one grid for all linears ({}), which may be left in 16 bits", grid_name(recipe.grid));
    } else if (!layout->holds_width(p.grid.bits)) {
      reason = fmt::format("holds {} bits, not {}", list_widths(layout->widths()), p.grid.bits);
    } else if (std::string shape = layout->refusal(w.rows, w.columns, p.grid.group_of(w.columns), p.grid.bits);
               !shape.empty()) {
      reason = fmt::format("cannot hold {} so: {}", w.name, shape);
    }
    if (!reason.empty())
      throw ArgumentError("linear-bits",
                          fmt::format("--linear-bits {}: the format {} {}; choose other bits, or another --format",
                                      p.text, layout->name(), reason));
  }
}

// The grid of a format that leaves no choice but bits. ArgumentError where it has none.
Grid own_grid(const Layout& layout, const BitsPattern& p, const LinearPlace& place, const QuantizedWeight& w,
              const Recipe& recipe) {
  if (p.grid.group_size != recipe.grid.group_size) {
    throw ArgumentError("linear-bits", fmt::format("--linear-bits {}: the format {} has groups of its own; leave the "
                                                   "size out",
                                                   p.text, layout.name()));
  }
  if (const auto grid = layout.own_grid(place, p.grid.bits)) return *grid;
  throw ArgumentError("linear-bits", fmt::format("--linear-bits {}: the format {} has no type of {} bits for the {} "
                                                 "inputs of {}; choose 4, 5, 8 or 16 bits, or another --format",
                                                 p.text, layout.name(), p.grid.bits, w.columns, w.name));
}

}  // namespace

bool same_grid(const Grid& a, const Grid& b) {
  return a.bits == b.bits && (a.bits == kUnquantizedBits || a.group_size == b.group_size);
}

std::vector<const Layout*> layouts_of(const QuantizeOptions& options) {
  std::vector<const Layout*> layouts;
  for (const std::string& format : options.formats) layouts.push_back(&layout_named(format));
  return layouts;
}

LinearGrids grids_of_patterns(const ModelSource& source, const QuantizeOptions& options, const Recipe& recipe) {
  std::vector<BitsPattern> patterns;
  for (const std::string& text : options.linear_bits) patterns.push_back(parse_pattern(text, recipe.grid));
  LinearGrids out;
  if (patterns.empty()) return out;
  const Layout* own = format_with_own_grid(options);
  std::vector<bool> used(patterns.size(), false);
  for (int64_t layer = 0; layer < source.config().num_hidden_layers; ++layer) {
    const LayerTensors tensors = layer_tensors(source, layer, options);
    for (int t = 0; t < kLinearInputs; ++t) {
      std::vector<const QuantizedWeight*> weights;
      const BitsPattern* chosen = nullptr;
      for (const QuantizedWeight& w : tensors.quantized) {
        if (input_of(w.slots.front().kind) != static_cast<LinearInput>(t)) continue;
        weights.push_back(&w);
      }
      for (size_t i = 0; i < patterns.size(); ++i) {
        const bool matches = std::any_of(weights.begin(), weights.end(), [&](const QuantizedWeight* w) {
          return matches_any({patterns[i].pattern}, w->name);
        });
        if (!matches) continue;
        used[i] = true;
        chosen = &patterns[i];
      }
      if (chosen == nullptr) continue;
      for (const QuantizedWeight* w : weights) {
        if (own != nullptr && chosen->grid.bits != kUnquantizedBits) {
          out[w->name] = own_grid(*own, *chosen, place_of(source, layer, *w), *w, recipe);
          continue;
        }
        require_holdable(*chosen, *w, options, recipe);
        out[w->name] = chosen->grid;
      }
    }
  }
  for (size_t i = 0; i < patterns.size(); ++i) {
    if (used[i]) continue;
    std::vector<std::string> names;
    for (int64_t layer = 0; layer < source.config().num_hidden_layers; ++layer) {
      for (const QuantizedWeight& w : layer_tensors(source, layer, options).quantized) names.push_back(w.name);
    }
    if (names.empty()) continue;  // nothing is left to quantize: the plan says so
    QuantizeOptions all = options;
    all.skip.clear();
    for (int64_t layer = 0; layer < source.config().num_hidden_layers; ++layer) {
      for (const QuantizedWeight& w : layer_tensors(source, layer, all).quantized) {
        if (!matches_any({patterns[i].pattern}, w.name)) continue;
        throw ArgumentError("linear-bits",
                            fmt::format("--linear-bits {}: every linear that '{}' matches is left out by --skip",
                                        patterns[i].text, patterns[i].pattern));
      }
    }
    throw ArgumentError("linear-bits",
                        fmt::format("--linear-bits {}: no linear that is quantized has a name that matches '{}': {}",
                                    patterns[i].text, patterns[i].pattern, pattern_hint(patterns[i].pattern, names)));
  }
  return out;
}

void check_mixed(const QuantizeOptions& o, const Recipe& recipe) {
  if (!chooses_bits(o)) return;
  if (const Layout* own = format_with_own_grid(o)) {
    throw ArgumentError("format", fmt::format("--format {}: its types leave no choice of bits to --target-bits and "
                                              "--bits mixed; take a mix of types (gguf:Q4_K_M), or --linear-bits",
                                              own->name()));
  }
  if (o.target_bits && !(*o.target_bits < 16)) {
    throw ArgumentError(
        "target-bits",
        fmt::format("--target-bits: expected 2 to less than 16 bits per weight, found {:g}", *o.target_bits));
  }
  if (!o.target_bits && !o.max_kl)
    throw ArgumentError("bits",
                        "--bits mixed: needs --target-bits X, or --max-kl X, to know how many bits there may be");
  if (recipe.grid.bits != 4) {
    throw ArgumentError("bits", fmt::format("--bits {}: leaves no choice to {}, which chooses bits beside 4; leave one "
                                            "of them out",
                                            recipe.grid.bits, o.target_bits ? "--target-bits" : "mixed_bits"));
  }
  if (from_statistics(o.calibration)) {
    throw ArgumentError(
        "calibration",
        "sensitivity: statistics from a file have no text to measure on; name texts, or self, with --calibration");
  }
}

}  // namespace metal_marlin

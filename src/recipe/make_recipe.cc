#include "recipe/make_recipe.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <set>

#include "options/sources.h"
#include "pack/group_arrays.h"
#include "recipe/format_grid.h"
#include "recipe/group_size.h"
#include "recipe/linear_bits.h"
#include "recipe/tensor_plan.h"
#include "recipe/text_options.h"

namespace metal_marlin {
namespace {

void require_width(const Layout& layout, int bits) {
  if (layout.holds_width(bits)) return;
  throw ArgumentError("format",
                      fmt::format("--format {0}: {0} holds {1} bits, not {2}; use --bits {1}, or another format",
                                  layout.name(), list_widths(layout.widths()), bits));
}

// ArgumentError when the format cannot hold the grid. Of a layout that refuses most shapes the linears are named in an
// error, because they would stay in 16 bits.
void require_holdable(const Layout& layout, const Grid& grid, const ModelSource& source,
                      const QuantizeOptions& options) {
  if (const std::string reason = layout.refusal_of(grid); !reason.empty()) {
    throw ArgumentError("format", fmt::format("--format {0}: {0} {1}; use {2}, or another format", layout.name(),
                                              reason, grid.symmetric ? "--group-size 128 or -1" : "--scheme sym"));
  }
  if (!layout.picky()) return;
  for (int64_t layer = 0; layer < source.config().num_hidden_layers; ++layer) {
    for (const QuantizedWeight& w : layer_tensors(source, layer, options).quantized) {
      if (const std::string reason = layout.refusal(w.rows, w.columns, grid.group_of(w.columns), grid.bits);
          !reason.empty()) {
        throw ArgumentError(
            "format", fmt::format("--format {}: {}: {}; leave it in 16 bits with --skip, or choose another format",
                                  layout.name(), w.name, reason));
      }
    }
  }
}

// Whether the asymmetric grid has minima, as layouts that store them want it. ArgumentError where the formats want
// both.
bool has_minima(const QuantizeOptions& options, const Grid& grid) {
  if (grid.symmetric) return false;
  const Layout* with = nullptr;
  const Layout* without = nullptr;
  for (const std::string& format : options.formats) {
    const Layout& layout = layout_named(format);
    (layout.holds_minima() ? with : without) = &layout;
  }
  if (with == nullptr || without == nullptr) return with != nullptr;
  throw ArgumentError(
      "format", fmt::format("--format {0},{1}: {0} stores zeros that are codes and {1} minima in 16 bits, so that an "
                            "asymmetric result of one is none of the other; use --scheme sym, or run once for each",
                            without->name(), with->name()));
}

}  // namespace

Recipe make_recipe(const QuantizeOptions& given, const ModelSource& source) {
  const QuantizeOptions o = settle_formats(given);
  Recipe r = stages_of(o);
  r.outer = outer_types(o);
  std::set<std::string> formats;
  for (const std::string& f : o.formats) {
    const auto& known = checkpoint_formats();
    if (std::find(known.begin(), known.end(), f) == known.end()) {
      throw ArgumentError("format",
                          fmt::format("--format: expected one of {}, found \"{}\"", fmt::join(known, ", "), f));
    }
    if (!formats.insert(f).second) throw ArgumentError("format", fmt::format("--format: \"{}\" is named twice", f));
  }
  if (formats.empty())
    throw ArgumentError("format",
                        fmt::format("--format: expected at least one of {}", fmt::join(checkpoint_formats(), ", ")));
  if (const Layout* own = format_with_own_grid(o)) {
    r.grid = *own->own_grid();
  } else {
    r.grid.group_size = resolve_group_size(source, o);
    r.grid.minimum = has_minima(o, r.grid);
  }
  for (const std::string& f : o.formats) {
    const Layout& layout = layout_named(f);
    require_width(layout, r.grid.bits);
    require_holdable(layout, r.grid, source, o);
    r.least_zero = std::max(r.least_zero, layout.least_zero());
  }
  constexpr uint64_t kLeastShard = 1'000'000;  // smaller files would be thousands
  if (o.max_shard_bytes < kLeastShard) {
    throw ArgumentError("max-shard-size",
                        fmt::format("--max-shard-size: expected at least 1 MB, found {} bytes", o.max_shard_bytes));
  }
  for (const std::string& f : o.formats) {
    for (const std::string& name : {source.family().embedding, source.head_tensor()})
      outer_type(source, layout_named(f), r.outer, name);  // refuses blocks that do not fit
  }
  check_sizes(o);
  check_sizes(o.evaluation);
  r.precision = statistics_precision(o.machine.precision);
  check_mixed(o, r);
  r.grids = grids_of_patterns(source, o, r);
  return r;
}

}  // namespace metal_marlin

#include "recipe/make_recipe.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <set>

#include "options/sources.h"
#include "pack/group_arrays.h"
#include "recipe/group_size.h"
#include "recipe/linear_bits.h"
#include "recipe/tensor_plan.h"
#include "recipe/text_options.h"
#include "write/checkpoint_writer.h"

namespace metal_marlin {
namespace {

void require_width(const CheckpointWriter& writer, int bits) {
  const auto widths = writer.widths();
  if (std::find(widths.begin(), widths.end(), bits) != widths.end()) return;
  throw ArgumentError("format",
                      fmt::format("--format {0}: {0} holds {1} bits, not {2}; use --bits {1}, or another format",
                                  writer.format(), list_widths(widths), bits));
}

// ArgumentError when the format cannot hold the grid. Marlin refuses so many shapes that most linears would stay in 16
// bits; with it the linears are named in an error instead.
void require_holdable(const CheckpointWriter& writer, const Grid& grid, const ModelSource& source,
                      const QuantizeOptions& options) {
  if (const std::string reason = writer.refusal_of(grid); !reason.empty()) {
    throw ArgumentError("format", fmt::format("--format {0}: {0} {1}; use {2}, or another format", writer.format(),
                                              reason, grid.symmetric ? "--group-size 128 or -1" : "--scheme sym"));
  }
  if (writer.format() != std::string("marlin")) return;
  for (int64_t layer = 0; layer < source.config().num_hidden_layers; ++layer) {
    for (const QuantizedWeight& w : layer_tensors(source, layer, options).quantized) {
      if (const std::string reason = writer.refusal(w.rows, w.columns, grid.group_of(w.columns), grid.bits);
          !reason.empty()) {
        throw ArgumentError(
            "format", fmt::format("--format marlin: {}: {}; leave it in 16 bits with --skip, or choose another format",
                                  w.name, reason));
      }
    }
  }
}

}  // namespace

Recipe make_recipe(const QuantizeOptions& o, const ModelSource& source) {
  Recipe r = stages_of(o);
  std::set<std::string> formats;
  for (const std::string& f : o.formats) {
    const auto& known = checkpoint_formats();
    if (std::find(known.begin(), known.end(), f) == known.end()) {
      throw ArgumentError("format",
                          fmt::format("--format: expected one of {}, found \"{}\"", fmt::join(known, ", "), f));
    }
    if (!formats.insert(f).second) throw ArgumentError("format", fmt::format("--format: \"{}\" is named twice", f));
    require_width(*CheckpointWriter::create(f), o.bits);
  }
  if (formats.empty())
    throw ArgumentError("format",
                        fmt::format("--format: expected at least one of {}", fmt::join(checkpoint_formats(), ", ")));
  r.grid.group_size = resolve_group_size(source, o);
  for (const std::string& f : o.formats) {
    const auto writer = CheckpointWriter::create(f);
    require_holdable(*writer, r.grid, source, o);
    r.least_zero = std::max(r.least_zero, writer->least_zero());
  }
  check_sizes(o);
  check_sizes(o.evaluation);
  r.precision = statistics_precision(o.machine.precision);
  check_mixed(o, r);
  r.grids = grids_of_patterns(source, o, r);
  return r;
}

}  // namespace metal_marlin

#include "recipe/format_grid.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <string>

#include "layouts/layouts.h"

namespace metal_marlin {
namespace {

[[noreturn]] void refuse(const char* option, const std::string& given, const Layout& layout, const std::string& has) {
  throw ArgumentError(option, fmt::format("--{} {}: the format {} has {}; leave the option out, or choose another "
                                          "--format",
                                          option, given, layout.name(), has));
}

void require_one_grid(const Layout& own, const QuantizeOptions& options) {
  for (const std::string& format : options.formats) {
    const Layout* other = find_layout(format);
    if (other == nullptr || other == &own || (!other->own_grid() && !own.own_grid()->block)) continue;
    throw ArgumentError("format",
                        fmt::format("--format {},{}: their weights are rounded to different grids; run once for each",
                                    own.name(), other->name()));
  }
}

}  // namespace

const Layout* format_with_own_grid(const QuantizeOptions& options) {
  for (const std::string& format : options.formats) {
    const Layout* layout = find_layout(format);
    if (layout != nullptr && layout->own_grid()) return layout;
  }
  return nullptr;
}

QuantizeOptions settle_formats(QuantizeOptions o) {
  const Layout* own = format_with_own_grid(o);
  if (own == nullptr) return o;
  require_one_grid(*own, o);
  const Grid grid = *own->own_grid();
  const QuantizeOptions usual;
  const Scheme scheme = grid.symmetric ? Scheme::kSymmetric : Scheme::kAsymmetric;
  if (o.bits != usual.bits && o.bits != grid.bits)
    refuse("bits", fmt::format("{}", o.bits), *own, fmt::format("{} bits", grid.bits));
  if (o.group_size && *o.group_size != grid.group_size)
    refuse("group-size", fmt::format("{}", *o.group_size), *own, fmt::format("groups of {}", grid.group_size));
  if (o.scheme != usual.scheme && o.scheme != scheme) refuse("scheme", "sym", *own, "a minimum for each group");
  o.bits = grid.bits;
  o.group_size = grid.group_size;
  o.scheme = scheme;
  return o;
}

}  // namespace metal_marlin

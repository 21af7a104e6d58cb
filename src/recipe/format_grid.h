// Formats that leave no choice of bits, groups and scheme: GGUF's types have their own.
#pragma once

#include <metal_marlin/quantize.h>

namespace metal_marlin {

class Layout;

// The first of the formats that has a grid of its own (Layout::own_grid()); null: none has.
const Layout* format_with_own_grid(const QuantizeOptions& options);

// The options; with such a format, with its bits, group size and scheme in place of the defaults. ArgumentError naming
// the option where another value was given, and where two formats have different grids. Names that no format has stay:
// make_recipe() refuses them.
QuantizeOptions settle_formats(QuantizeOptions options);

}  // namespace metal_marlin

// --linear-bits: widths of single linears that the user gives.
#pragma once

#include <metal_marlin/quantize.h>

#include <memory>
#include <string>
#include <vector>

#include "checkpoint/model_source.h"
#include "layouts/layouts.h"
#include "recipe/recipe.h"

namespace metal_marlin {

// --linear-bits: "PATTERN=BITS" or "PATTERN=BITS:GROUP", the last that matches counts; linears fused at load follow the
// first of them that is matched. ArgumentError naming the option for what is no such text, a pattern that matches
// nothing, or a grid that a format cannot hold.
LinearGrids grids_of_patterns(const ModelSource& source, const QuantizeOptions& options, const Recipe& recipe);

// ArgumentError naming the option where they do so with a wrong or missing target, or without a text.
void check_mixed(const QuantizeOptions& options, const Recipe& recipe);

// One writer for each of options.formats.
std::vector<const Layout*> layouts_of(const QuantizeOptions& options);
// Whether linears of both are stored alike.
bool same_grid(const Grid& a, const Grid& b);

}  // namespace metal_marlin

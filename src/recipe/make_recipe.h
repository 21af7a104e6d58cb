// The recipe of a run: what the options say, checked against the model and the formats.
#pragma once

#include "checkpoint/model_source.h"
#include "recipe/recipe.h"

namespace metal_marlin {

// stages_of() with formats, group size and the grids of single linears, for this model. ArgumentError as there.
Recipe make_recipe(const QuantizeOptions& options, const ModelSource& source);

}  // namespace metal_marlin

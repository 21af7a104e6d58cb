// What a checkpoint holds beside the model: other parts, and layers that its config does not count.
#pragma once

#include <vector>

#include "pipeline/recipe.h"
#include "source/model_source.h"

namespace metal_marlin {

// ModelSource::left_out() with the reason of each.
std::vector<Skipped> left_out_tensors(const ModelSource& source);

}  // namespace metal_marlin

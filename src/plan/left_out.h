// What a checkpoint holds beside the model: other parts, and layers that its config does not count.
#pragma once

#include <vector>

#include "checkpoint/model_source.h"
#include "recipe/recipe.h"
#include "recipe/tensor_plan.h"

namespace metal_marlin {

// ModelSource::left_out() with the reason of each.
std::vector<Skipped> left_out_tensors(const ModelSource& source);

}  // namespace metal_marlin

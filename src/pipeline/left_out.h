// What a checkpoint holds beside the model: other parts, and layers that its config does not count.
#pragma once

#include <vector>

#include "pipeline/recipe.h"
#include "source/model_source.h"

namespace metal_marlin {

// ModelSource::left_out() with the reason of each.
std::vector<Skipped> left_out_tensors(const ModelSource& source);
<<<<<<< HEAD
=======
// A warning when the checkpoint holds layers that the config does not count: a wrong config may be the reason, and a
// model with fewer layers computes something else. Empty when there are none.
std::string surplus_layers_warning(const ModelSource& source);
>>>>>>> cmd

}  // namespace metal_marlin

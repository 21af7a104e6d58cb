// Makes the README.md beside the weights: YAML front matter for model hubs, and the same figures as a table.
#pragma once

#include <string>

#include "layouts/layout.h"
#include "write/checkpoint_plan.h"

namespace metal_marlin {

// `source` is the model's name in the text. "org/name" is the id of a hub and also becomes the key base_model; for any
// other name the key is left out. Of plan.figures, pairs that belong together
// share a row; where one of them is missing, the others become rows "a.b". Numbers have five digits; a mean and its
// standard error have two digits of the error.
std::string render_model_card(const std::string& source, const std::string& family, const Layout& layout,
                              const CheckpointPlan& plan, const WriteReport& report);

// Returns the name of a source at `path`: "org/name" for a cache path ".../models--org--name/snapshots/<revision>",
// else the folder's name, or the file's without its extension.
std::string source_name_of(const std::string& path);

}  // namespace metal_marlin

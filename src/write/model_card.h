// README.md next to the weights: YAML front matter for model hubs, and the same figures as a table.
#pragma once

#include <string>

#include "write/checkpoint_writer.h"

namespace metal_marlin {

// `base_model` "org/name" or a plain name, `format` one of checkpoint_formats(). plan.figures_json: nested objects become rows
// "a.b". FormatError when it is no JSON object.
std::string render_model_card(const std::string& base_model, const std::string& family, const std::string& format,
                              const CheckpointPlan& plan, const WriteReport& report);

// base_model for a source at `path`: "org/name" out of a cache path ".../models--org--name/snapshots/<revision>", else
// the folder's name, or the file's without its extension.
std::string base_model_of(const std::string& path);

}  // namespace metal_marlin

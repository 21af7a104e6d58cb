// README.md next to the weights: YAML front matter for model hubs, and the same figures as a table.
#pragma once

#include <string>

#include "write/checkpoint_writer.h"

namespace metal_marlin {

// `source` is what the model is called in the text: "org/name", the id of a hub, is also the key base_model; any other
// name is no id, and the key is left out. `format` one of checkpoint_formats(). plan.figures_json: perplexity,
// kl_divergence, top1_agreement and positions as in report.json get rows of their own; other nested objects become rows
// "a.b". Numbers have five digits, a mean and its standard error two digits of the error. FormatError when it is no
// JSON object.
std::string render_model_card(const std::string& source, const std::string& family, const std::string& format,
                              const CheckpointPlan& plan, const WriteReport& report);

// What a source at `path` is called: "org/name" out of a cache path ".../models--org--name/snapshots/<revision>", else
// the folder's name, or the file's without its extension.
std::string source_name_of(const std::string& path);

}  // namespace metal_marlin

// What a model's generation_config.json says of the tokens that end a text.
#pragma once

#include <string>
#include <vector>

#include "core/files/model_file.h"
#include "families/config/model_config.h"

namespace metal_marlin {

// Adds the ids of generation_config.json in `folder`, where there is one, to config.eos_token_ids. Throws as
// read_json_object and ConfigReader do.
void read_generation_config(const ModelFolder& files, const std::string& folder, ModelConfig& config,
                            std::vector<std::string>& warnings);

// Adds to config.warnings the ids that no row of the embedding has: a generation would never meet them.
void warn_of_ids(const std::string& folder, ModelConfig& config);

}  // namespace metal_marlin

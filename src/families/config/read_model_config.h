// config.json to ModelConfig.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "families/config/model_config.h"
#include "families/family.h"

namespace metal_marlin {

// Reads a config.json of Hugging Face, old style (rope_theta, rope_scaling, torch_dtype at top level) or new
// (rope_parameters, dtype), with the family's defaults for what is absent. `file` is named in errors: FormatError for
// a missing or ill-typed key (also those that a rope type needs) or contradictory numbers (heads not a multiple of kv
// heads, sizes <= 0 or beyond 2^31), UnsupportedError for an unknown rope type or activation.
ModelConfig read_model_config(const nlohmann::json& config, const Family& family, const std::string& file);

}  // namespace metal_marlin

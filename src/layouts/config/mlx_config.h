// What mlx-lm reads of a config that others write otherwise.
#pragma once

#include <nlohmann/json_fwd.hpp>

namespace metal_marlin {

// Most models of mlx-lm (0.32.2) know rope_theta and rope_scaling, and not transformers' newer rope_parameters, which
// holds both: without the former they compute with a default of their own. Sets them beside rope_parameters where they
// are missing; for models with two kinds of layers, rope_local_base_freq too.
void add_mlx_rope(nlohmann::json& config);

}  // namespace metal_marlin

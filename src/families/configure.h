// Pieces of `configure` that several families use.
#pragma once

#include <functional>
#include <optional>

#include "families/config/config_reader.h"
#include "families/config/model_config.h"

namespace metal_marlin {

inline constexpr double kLargestTheta = 1e12;  // of rope_theta

Activation read_activation(const ConfigReader& config, const char* key, Activation otherwise);
// The keys of one rope_parameters / rope_scaling object over `defaults`.
RopeConfig read_rope(const ConfigReader& object, const RopeConfig& defaults);
// Fills ModelConfig::sliding_window: by layer_types where the config has them, else where slides(layer).
void set_windows(const ConfigReader& config, std::optional<int64_t> window, const std::function<bool(int64_t)>& slides,
                 ModelConfig& out);

}  // namespace metal_marlin

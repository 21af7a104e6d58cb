// Multimodal checkpoints that wrap a language model: its config and its tensors, one level down.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace metal_marlin {

// Puts the language model's own config in place of a wrapper's ("gemma3" with text_config), with the keys that the
// wrapper keeps for it; a warning where the two differ. False, and nothing done, for any other config. FormatError:
// text_config is no object.
bool unwrap_text_config(nlohmann::json& config, const std::string& file, std::vector<std::string>& warnings);
// "model.language_model.layers.0...", "language_model.model.layers.0..." -> "model.layers.0...". Empty for tensors of
// the other parts (vision tower, projector).
std::string text_tensor_name(const std::string& name);

}  // namespace metal_marlin

// Names of a checkpoint's tensors, as Hugging Face spells them.
#pragma once

#include <cstdint>
#include <string>

namespace metal_marlin {

// "...v_proj.bias" of "...v_proj.weight".
std::string bias_name(const std::string& weight);

// The layer that a tensor belongs to by a name of the form PREFIX N "." ...; -1: none.
int64_t layer_behind(const std::string& name, const std::string& prefix);

}  // namespace metal_marlin

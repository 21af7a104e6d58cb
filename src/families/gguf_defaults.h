// What llama.cpp takes where a GGUF file does not say it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "families/family.h"

namespace metal_marlin {

// general.architecture of a model of the family.
std::string gguf_architecture(const Family& family);
// query_pre_attn_scalar: the logits of attention are divided by its root. The converter drops Gemma's. llama.cpp takes
// the head dimension, and for the two 27B models, which it knows by their number of layers, hidden_size / heads.
int64_t gguf_query_scalar(std::string_view architecture, int64_t layers, int64_t hidden_size, int64_t heads,
                          int64_t head_dim);
// Whether a layer of Gemma 2 or 3 has a window: in Gemma 2 every second one from the first, in Gemma 3 all but every
// sixth.
bool gguf_layer_slides(std::string_view architecture, int64_t layer);

}  // namespace metal_marlin

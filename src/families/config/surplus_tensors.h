// Tensors that a checkpoint holds and its family has no place for.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace metal_marlin {

// Elements of a bias that is looked at before its shape is compared with the model's: the largest have some 300,000. A
// stored one may be a thousandth of the floats that it stands for.
inline constexpr int64_t kLongestBias = int64_t{1} << 24;

enum class SurplusKind : uint8_t {
  kBuffer,      // tables and masks that every engine computes anew: rotary_emb.inv_freq, attn.bias, ...
  kCacheScale,  // scales of a quantized key-value cache
  kForeign,     // of a part beside the language model: a vision tower, a head for other tasks, MTP layers
  kOfTheModel,  // none of these: the model computes something else without it
};

// By Hugging Face's name.
SurplusKind surplus_kind(const std::string& name, const std::vector<int64_t>& shape);
// By llama.cpp's name.
SurplusKind gguf_surplus_kind(const std::string& name);

}  // namespace metal_marlin

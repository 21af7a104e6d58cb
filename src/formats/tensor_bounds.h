// How many tensors the readers of checkpoints take.
#pragma once

#include <cstddef>

namespace metal_marlin {

// Of a safetensors file, of an index, of a GGUF file, and of all files of a model: some fifty times what the largest
// dense models have in 16 bits. A header of many small entries takes many times its size in time and memory.
inline constexpr size_t kMostTensors = 200'000;

}  // namespace metal_marlin

// A quantized linear in the layout of one checkpoint format.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "core/tensor.h"

namespace metal_marlin {

// Each part's name is what follows the module's name and a dot in the checkpoint: "qweight" stands for
// "model.layers.0.mlp.up_proj.qweight".
struct PackedTensor {
  std::vector<OwnedTensor> parts;

  const OwnedTensor* find(std::string_view name) const noexcept {
    for (const OwnedTensor& part : parts) {
      if (part.name == name) return &part;
    }
    return nullptr;
  }
};

// Whether unpacking fills QuantizedTensor::codes, or only the arrays of groups, which is enough to look at the zeros.
enum class Codes : uint8_t { kRead, kSkip };

}  // namespace metal_marlin

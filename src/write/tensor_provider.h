// Where the values of a checkpoint come from while it is written.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "core/tensor.h"
#include "core/values.h"
#include "formats/blocks/block_tensor.h"

namespace metal_marlin {

// Gives the new values, in the order of the file. A linear is requested once, or again where its other parts exceeded
// CheckpointPlan::held_bytes and were not kept. It must then return the same values.
class TensorProvider {
 public:
  virtual ~TensorProvider() = default;
  virtual QuantizedTensor quantized(const std::string& name) = 0;
  // Of a linear whose QuantizedLinear::block is set. Here: there is none.
  virtual BlockTensor blocks(const std::string& name);
  virtual OwnedTensor changed(const std::string& name) = 0;
};

// Called before each tensor with the number written and the number in all; may throw to stop.
using WriteProgress = std::function<void(int64_t done, int64_t total)>;

}  // namespace metal_marlin

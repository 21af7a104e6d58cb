// What is left of a block when it is done: what the journal keeps and the checkpoint is made of.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "core/values.h"

namespace metal_marlin {

struct FinishedBlock {
  std::map<std::string, QuantizedTensor> quantized;  // by weight name
  std::vector<OwnedTensor> changed;  // folded norms, biases and weights left in 16 bits, under their names, F16
};

}  // namespace metal_marlin

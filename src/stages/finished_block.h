// A block as the journal keeps it: what the checkpoint will hold of it in place of the source's tensors.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "checkpoint/model_source.h"
#include "core/tensor.h"
#include "core/values.h"
#include "formats/blocks/block_tensor.h"
#include "model/block.h"

namespace metal_marlin {

struct FinishedBlock {
  std::map<std::string, QuantizedTensor> quantized;  // by weight name
  std::map<std::string, BlockTensor> blocks;         // likewise, of linears whose grid is that of a ggml type
  std::vector<OwnedTensor> changed;  // folded norms, biases and weights left in 16 bits, under their names, F16
};

// Puts a finished block's values into `block`, which holds the source's weights. Of a file it must have passed
// check_finished().
void apply_finished(const ModelSource& source, int64_t layer, const FinishedBlock& finished, Block& block);

}  // namespace metal_marlin

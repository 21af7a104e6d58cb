// How large a result can become whose bits are chosen by a measurement that is still to come.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>

#include "recipe/recipe.h"
#include "recipe/tensor_plan.h"
#include "write/checkpoint_writer.h"

namespace metal_marlin {

struct MostBytes {
  uint64_t linears = 0;                  // of all linears whose bits are chosen, and of those with fixed bits
  std::map<std::string, uint64_t> kept;  // of each other tensor
};

// Upper bounds over every choice of bits that options.target_bits allows, or over all choices without a target. A
// target counts codes, scales and zeros alone; the bounds hold what the writer's layout adds to them. `layers`: the
// plan of every layer before the choice.
MostBytes most_bytes(const ModelSource& source, const QuantizeOptions& options, const Recipe& recipe,
                     const std::vector<LayerTensors>& layers, const CheckpointWriter& writer);

}  // namespace metal_marlin

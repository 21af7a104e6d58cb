// Which tensors of a layer become codes, with which grid, and which stay in 16 bits and why.
#pragma once

#include <metal_marlin/quantize.h>

#include <string>
#include <vector>

#include "checkpoint/model_source.h"
#include "core/values.h"
#include "layouts/layout.h"
#include "recipe/recipe.h"
#include "write/outer_types.h"

namespace metal_marlin {

// Shell patterns (*, ?, [...]) against a weight's name, as --skip takes them.
bool matches_any(const std::vector<std::string>& patterns, const std::string& name);

// One stored weight tensor of a layer that is to be quantized: with fused weights several linears are rows of it.
struct QuantizedWeight {
  std::string name;               // "model.layers.0.self_attn.q_proj.weight"
  std::vector<LinearSlot> slots;  // in row order
  int64_t rows = 0;
  int64_t columns = 0;
  Grid grid;  // linears may differ; those that engines fuse at load have one
};
// As a checkpoint's plan has it, without a fold.
QuantizedLinear planned_linear(const QuantizedWeight& weight);
// What was asked for of embedding and head.
OuterTypes outer_types(const QuantizeOptions& options);
// Where it stands among the model's layers.
LinearPlace place_of(const ModelSource& source, int64_t layer, const QuantizedWeight& weight);
struct Skipped {
  std::string name;
  std::string reason;
};
struct LayerTensors {
  std::vector<QuantizedWeight> quantized;
  std::vector<Skipped> skipped;
};
// What is quantized in a layer and what stays in 16 bits: by --skip. Modules that engines fuse at load (q,k,v; gate,up)
// are skipped together when one of them is.
LayerTensors layer_tensors(const ModelSource& source, int64_t layer, const QuantizeOptions& options);
// The same with the grid of each linear; what one of the formats cannot hold is left out too.
LayerTensors planned_tensors(const ModelSource& source, int64_t layer, const QuantizeOptions& options,
                             const Recipe& recipe);
// The same of every layer.
std::vector<LayerTensors> planned_layers(const ModelSource& source, const QuantizeOptions& options,
                                         const Recipe& recipe);
// ArgumentError when nothing is left to quantize.
void require_quantized(const ModelSource& source, const std::vector<LayerTensors>& layers);

}  // namespace metal_marlin

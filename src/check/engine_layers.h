// The linears as vLLM and SGLang build them: q, k and v are one, gate and up are one, and each device has a part.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "check/facts.h"

namespace metal_marlin {

struct EngineLayer {
  std::string name;                           // "model.layers.0.self_attn.qkv_proj"
  std::vector<const ModuleFact*> parts = {};  // in the order of their rows
  std::vector<std::string> part_names = {};   // all that the engine puts into it, stored or not
  bool splits_columns = false;                // over the devices, as o and down; else the rows, as all others
  bool fused() const noexcept { return part_names.size() > 1; }
  bool quantized() const;
  bool in_floats() const;
  std::optional<int64_t> columns() const { return parts[0]->columns; }
  // Rows of all parts; nothing where one is not known.
  std::optional<int64_t> rows() const;
};

// Those of the layers, without embedding and head. Modules that are neither of these nor known by name are left out.
std::vector<EngineLayer> engine_layers(const CheckpointFacts& facts);

}  // namespace metal_marlin

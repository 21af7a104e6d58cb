// What a checkpoint is to hold as codes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "families/family.h"

namespace metal_marlin {

// A linear's weight that is stored as codes. Families that fuse linears in one tensor have one entry for the tensor.
struct QuantizedLinear {
  std::string name;  // "model.layers.0.self_attn.q_proj.weight"
  int64_t out_features = 0;
  int64_t in_features = 0;
  int64_t group_size = 0;  // never -1, as in QuantizedTensor
  std::string folded;  // module that took the per-input-channel scale, "model.layers.0.input_layernorm"; empty: none
  int bits = 4;        // of a code
  bool symmetric = true;
  std::optional<GgmlType> block = {};  // as in Grid: stored as blocks of this type, not as codes
};

// Where a linear stands in the model, for formats whose rule gives some linears another grid.
struct LinearPlace {
  LinearKind kind = LinearKind::kQ;  // of a fused one: of its first rows
  bool fused_qkv = false;
  int64_t layer = 0;
  int64_t layers = 0;   // of the model
  int64_t columns = 0;  // in_features
};

struct LayoutPlan {
  int64_t group_size = 128;  // of most linears; -1: the whole row
  bool symmetric = true;
  int bits = 4;  // of most linears
  std::vector<QuantizedLinear> quantized;
  bool act_order = false;   // some linear's groups are in act order
  bool keep_types = false;  // GPTQ: other tensors keep their type instead of becoming float16
  std::string head;         // module of the head, "lm_head"
};

// Returns "model.layers.0.mlp.up_proj" for "model.layers.0.mlp.up_proj.weight". Throws ArgumentError for a name without
// ".weight".
std::string module_name(const std::string& weight);

}  // namespace metal_marlin

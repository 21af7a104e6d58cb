// What the files of the families share.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "families/family.h"

namespace metal_marlin {

void configure_gemma_gguf(const GgufMetadata& metadata, nlohmann::json& config, const std::string& architecture);

// Names of Llama's linears and norms, which most families share.
inline std::array<std::string, kLinears> llama_linears() {
  return {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
          "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};
}
inline std::array<std::string, kNorms> llama_norms() {
  return {"input_layernorm", "", "", "", "post_attention_layernorm", ""};
}
inline std::vector<Fold> llama_folds() {
  return {{LinearInput::kQkv, FoldProducer::kInputNorm, "input_layernorm -> q_proj,k_proj,v_proj"},
          {LinearInput::kO, FoldProducer::kVRows, "v_proj -> o_proj"},
          {LinearInput::kGateUp, FoldProducer::kPreFeedForwardNorm, "post_attention_layernorm -> gate_proj,up_proj"},
          {LinearInput::kDown, FoldProducer::kUpRows, "up_proj -> down_proj"}};
}

}  // namespace metal_marlin

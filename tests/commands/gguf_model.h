// A random two-layer Llama whose widths the types of ggml can hold: 256 inputs, of which K-quants make whole blocks,
// and 288, of which they do not. With the tokenizer of a tiny model.
#pragma once

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "checkpoint/models.h"

namespace metal_marlin::test {

inline void write_gguf_model(const TemporaryFolder& folder, bool tied = false, int64_t layers = 2) {
  nlohmann::json config = small_config();
  config["vocab_size"] = 96;
  config["hidden_size"] = 256;
  config["intermediate_size"] = 288;
  config["num_hidden_layers"] = layers;
  config["num_attention_heads"] = 4;
  config["num_key_value_heads"] = 2;
  config["max_position_embeddings"] = 128;
  config["tie_word_embeddings"] = tied;
  Shapes shapes = {{"model.embed_tokens.weight", {96, 256}}, {"model.norm.weight", {256}}};
  if (!tied) shapes["lm_head.weight"] = {96, 256};
  for (int64_t i = 0; i < layers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    shapes[layer + "input_layernorm.weight"] = {256};
    shapes[layer + "post_attention_layernorm.weight"] = {256};
    shapes[layer + "self_attn.q_proj.weight"] = {256, 256};
    shapes[layer + "self_attn.k_proj.weight"] = {128, 256};
    shapes[layer + "self_attn.v_proj.weight"] = {128, 256};
    shapes[layer + "self_attn.o_proj.weight"] = {256, 256};
    shapes[layer + "mlp.gate_proj.weight"] = {288, 256};
    shapes[layer + "mlp.up_proj.weight"] = {288, 256};
    shapes[layer + "mlp.down_proj.weight"] = {256, 288};
  }
  folder.write("config.json", config.dump());
  std::vector<OwnedTensor> tensors = f32_tensors(shapes);
  for (OwnedTensor& t : tensors) {
    auto* values = reinterpret_cast<float*>(t.bytes.data());
    const auto n = static_cast<size_t>(t.view().elements());
    const bool norm = t.shape.size() == 1;
    // Exact in float16, so that a GGUF in F16 holds the same values.
    for (size_t k = 0; k < n; ++k) {
      const float v = norm ? 1 + 0.25F * values[k] : values[k] * 0.125F;
      values[k] = std::round(v * 1024) / 1024;
    }
  }
  write_safetensors(folder.path("model.safetensors"), tensors);
  for (const char* name : {"tokenizer.json", "tokenizer_config.json"})
    std::filesystem::copy_file(tiny_model("llama") + "/" + name, folder.path(name));
}

// The one GGUF file of a folder.
inline std::string gguf_in(const std::string& folder) {
  std::string found;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() == ".gguf") found = entry.path().string();
  }
  return found;
}

}  // namespace metal_marlin::test

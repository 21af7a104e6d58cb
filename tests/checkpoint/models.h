// Checkpoints for the tests of source/: the tiny models of tests/data/models, and small Llamas written on the spot.
#pragma once

#include <algorithm>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "checkpoint/model_source.h"
#include "formats/safetensors.h"
#include "formats/support.h"

namespace metal_marlin::test {

inline std::string tiny_model(const std::string& name) {
  return std::string(TEST_DATA) + "/models/" + name;
}

// hidden 16, 2 heads of 8 over 1, intermediate 24, vocabulary 12, one layer, untied.
inline nlohmann::json small_config() {
  return {{"model_type", "llama"},
          {"architectures", {"LlamaForCausalLM"}},
          {"vocab_size", 12},
          {"hidden_size", 16},
          {"intermediate_size", 24},
          {"num_hidden_layers", 1},
          {"num_attention_heads", 2},
          {"num_key_value_heads", 1},
          {"max_position_embeddings", 32},
          {"rms_norm_eps", 1e-5},
          {"hidden_act", "silu"},
          {"torch_dtype", "float32"}};
}

using Shapes = std::map<std::string, std::vector<int64_t>>;

inline Shapes small_shapes() {
  const std::string layer = "model.layers.0.";
  return {{"model.embed_tokens.weight", {12, 16}},
          {"lm_head.weight", {12, 16}},
          {"model.norm.weight", {16}},
          {layer + "input_layernorm.weight", {16}},
          {layer + "post_attention_layernorm.weight", {16}},
          {layer + "self_attn.q_proj.weight", {16, 16}},
          {layer + "self_attn.k_proj.weight", {8, 16}},
          {layer + "self_attn.v_proj.weight", {8, 16}},
          {layer + "self_attn.o_proj.weight", {16, 16}},
          {layer + "mlp.gate_proj.weight", {24, 16}},
          {layer + "mlp.up_proj.weight", {24, 16}},
          {layer + "mlp.down_proj.weight", {16, 24}}};
}

// Values in (-1, 1) that follow from the name alone.
inline std::vector<float> small_values(const std::string& name, int64_t count) {
  uint32_t state = 2166136261U;
  for (const char c : name) state = (state ^ static_cast<unsigned char>(c)) * 16777619U;
  std::vector<float> out;
  for (int64_t i = 0; i < count; ++i) {
    state = state * 1664525U + 1013904223U;
    out.push_back(static_cast<float>(static_cast<int32_t>(state)) / 2147483648.0F);
  }
  return out;
}

inline OwnedTensor f32_tensor(const std::string& name, const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (const int64_t d : shape) count *= d;
  OwnedTensor t{name, DType::kF32, shape, Buffer(static_cast<size_t>(count) * 4)};
  const auto values = small_values(name, count);
  if (count > 0) std::memcpy(t.bytes.data(), values.data(), t.bytes.size());
  return t;
}

inline std::vector<OwnedTensor> f32_tensors(const Shapes& shapes) {
  std::vector<OwnedTensor> out;
  for (const auto& [name, shape] : shapes) out.push_back(f32_tensor(name, shape));
  return out;
}

inline void write_small_model(const TemporaryFolder& folder, const nlohmann::json& config = small_config(),
                              const Shapes& shapes = small_shapes()) {
  folder.write("config.json", config.dump());
  write_safetensors(folder.path("model.safetensors"), f32_tensors(shapes));
}

// The tensor of a file as float32, whatever 16- or 32-bit type it has; the conversions are spelled out here.
inline std::vector<float> stored_values(const TensorView& t) {
  std::vector<float> out;
  for (int64_t i = 0; i < t.elements(); ++i) {
    const std::byte* at = t.bytes.data() + static_cast<size_t>(i) * dtype_size(t.dtype);
    if (t.dtype == DType::kF32) {
      float v = 0;
      std::memcpy(&v, at, 4);
      out.push_back(v);
      continue;
    }
    uint16_t bits = 0;
    std::memcpy(&bits, at, 2);
    if (t.dtype == DType::kBF16) {
      const uint32_t wide = static_cast<uint32_t>(bits) << 16;
      float v = 0;
      std::memcpy(&v, &wide, 4);
      out.push_back(v);
    } else {
      _Float16 h = 0;
      std::memcpy(&h, &bits, 2);
      out.push_back(static_cast<float>(h));
    }
  }
  return out;
}

inline std::vector<float> values_of(const Matrix& m) {
  return {m.values().begin(), m.values().end()};
}

// Whether a warning of the source has all of these texts.
inline bool warns(const ModelSource& source, const std::vector<std::string>& texts) {
  return std::any_of(source.warnings().begin(), source.warnings().end(), [&](const std::string& warning) {
    return std::all_of(texts.begin(), texts.end(),
                       [&](const std::string& text) { return warning.find(text) != std::string::npos; });
  });
}

}  // namespace metal_marlin::test

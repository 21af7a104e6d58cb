// A small Llama as a GGUF file put together by hand, so that any key or tensor can be wrong.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/model_source.h"
#include "formats/gguf_builder.h"

namespace metal_marlin::test {

// Hidden 32, 2 heads of 16 over 1, intermediate 32, vocabulary 3, one layer, tied.

inline std::string f16(float v) {
  const auto h = static_cast<_Float16>(v);
  return little(h);
}
// A row of 32 as one Q4_1 block: f16 d, f16 m, 16 bytes; byte i holds code i (low) and code i + 16 (high).
inline std::string q4_1_row(int row, float d, float m) {
  std::string s = f16(d) + f16(m);
  for (int i = 0; i < 16; ++i) s += static_cast<char>(((row + i) % 16) | (((row + 3 * i) % 16) << 4));
  return s;
}
inline float q4_1_value(int row, int column, float d, float m) {
  const int code = column < 16 ? (row + column) % 16 : (row + 3 * (column - 16)) % 16;
  return d * static_cast<float>(code) + m;
}

struct HandMade {
  std::map<std::string, std::string> pairs;
  std::vector<std::pair<std::string, std::pair<int64_t, uint32_t>>> tensors;  // name, rows (0: [32]), ggml type
  float scale = 0.25F;
  std::map<std::string, std::string> data;  // of tensors whose bytes are given, by name

  static std::string u32(uint32_t v) { return little(static_cast<uint32_t>(GgufType::kU32)) + little(v); }
  static std::string f32(float v) { return little(static_cast<uint32_t>(GgufType::kF32)) + little(v); }
  static std::string f64(double v) { return little(static_cast<uint32_t>(GgufType::kF64)) + little(v); }
  static std::string text(const std::string& s) {
    return little(static_cast<uint32_t>(GgufType::kString)) + GgufBuilder::text(s);
  }

  HandMade() {
    pairs = {{"general.architecture", text("llama")}, {"llama.embedding_length", u32(32)},
             {"llama.feed_forward_length", u32(32)},  {"llama.block_count", u32(1)},
             {"llama.attention.head_count", u32(2)},  {"llama.attention.head_count_kv", u32(1)},
             {"llama.context_length", u32(64)},       {"llama.attention.layer_norm_rms_epsilon", f32(1e-5F)},
             {"llama.rope.freq_base", f32(10000)}};
    tensors = {
        {"token_embd.weight", {3, 3}},     {"output_norm.weight", {0, 0}},        {"blk.0.attn_norm.weight", {0, 0}},
        {"blk.0.ffn_norm.weight", {0, 0}}, {"blk.0.attn_q.weight", {32, 3}},      {"blk.0.attn_k.weight", {16, 3}},
        {"blk.0.attn_v.weight", {16, 3}},  {"blk.0.attn_output.weight", {32, 3}}, {"blk.0.ffn_gate.weight", {32, 3}},
        {"blk.0.ffn_up.weight", {32, 3}},  {"blk.0.ffn_down.weight", {32, 3}}};
  }
  std::string bytes() const {
    GgufBuilder b;
    for (const auto& [key, value] : pairs) b.pairs.push_back(GgufBuilder::text(key) + value);
    for (const auto& [name, what] : tensors) {
      const auto& [rows, type] = what;
      std::vector<int64_t> dims = {32};
      if (rows > 0) dims.push_back(rows);
      b.infos.push_back(GgufBuilder::info(name, dims, type, b.data.size()));
      const auto given = data.find(name);
      if (given != data.end()) b.data += given->second;
      for (int r = 0; given == data.end() && r < std::max<int64_t>(rows, 1); ++r) {
        if (type == 3) b.data += q4_1_row(r, scale, -1);
        for (int c = 0; type == 0 && c < 32; ++c) b.data += little(static_cast<float>(c + 1));
      }
      b.data.append((32 - b.data.size() % 32) % 32, '\0');
    }
    return b.bytes();
  }
  std::unique_ptr<ModelSource> open(const TemporaryFolder& folder) const {
    return ModelSource::open(folder.write("model.gguf", bytes()));
  }
};

}  // namespace metal_marlin::test

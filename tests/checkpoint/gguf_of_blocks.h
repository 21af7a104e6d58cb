// A small Llama as a GGUF file whose matrices are random blocks of any type.
#pragma once

#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/gguf_hand_made.h"
#include "core/half.h"
#include "core/random.h"

namespace metal_marlin::test {

// Hidden 256, 4 heads of 64 over 2, intermediate 512, vocabulary 70, two layers, a head of its own.
struct BlocksModel {
  GgmlType linears = GgmlType::kQ4_0;
  GgmlType last = GgmlType::kQ4_0;  // of the linears of the second layer
  GgmlType head = GgmlType::kQ6_K;
  uint64_t seed = 1;
  // Bytes put into a tensor: name, place, what.
  std::vector<std::pair<std::string, std::pair<size_t, std::string>>> damage;

  static constexpr int64_t kHidden = 256;
  static constexpr int64_t kFeedForward = 512;
  static constexpr int64_t kVocabulary = 70;

  BlocksModel() = default;
  explicit BlocksModel(GgmlType type) : linears(type), last(type) {}

  // Random blocks: any bits in the codes and small scales, the f16 numbers so that the values are about 0.05.
  static std::string blocks(GgmlType type, int64_t elements, Random& random) {
    struct Halves {
      GgmlType type;
      size_t d;
      size_t m;        // equal to d: none
      double largest;  // value per d
    };
    constexpr Halves kHalves[] = {
        {GgmlType::kQ4_0, 0, 0, 8},        {GgmlType::kQ4_1, 0, 2, 15},    {GgmlType::kQ5_0, 0, 0, 16},
        {GgmlType::kQ5_1, 0, 2, 31},       {GgmlType::kQ8_0, 0, 0, 128},   {GgmlType::kQ2_K, 80, 82, 45},
        {GgmlType::kQ3_K, 108, 108, 128},  {GgmlType::kQ4_K, 0, 2, 945},   {GgmlType::kQ5_K, 0, 2, 1953},
        {GgmlType::kQ6_K, 208, 208, 4096}, {GgmlType::kIQ4_NL, 0, 0, 127}, {GgmlType::kIQ4_XS, 0, 0, 4064}};
    const GgmlTypeInfo info = ggml_type_info(type);
    std::string out;
    for (int64_t i = 0; i < elements; i += info.block) {
      std::string block;
      for (int64_t b = 0; b < info.bytes; ++b) block += static_cast<char>(random.below(256));
      for (const Halves& h : kHalves) {
        if (h.type != type) continue;
        const double sign = random.below(2) == 0 ? -1 : 1;
        put_half(block, h.d, sign * 0.1 * (0.5 + random.uniform()) / h.largest);
        // Of Q4_1 and Q5_1 the minimum itself, of K-quants its factor.
        if (h.m != h.d) put_half(block, h.m, 0.05 * random.uniform() / (info.block == 256 ? 30 : 1));
      }
      if (type == GgmlType::kF16) block = f16(static_cast<float>(random.normal() * 0.05));
      if (type == GgmlType::kBF16) block = little(f32_to_bf16(static_cast<float>(random.normal() * 0.05)));
      if (type == GgmlType::kF32) block = little(static_cast<float>(random.normal() * 0.05));
      out += block;
    }
    return out;
  }
  static void put_half(std::string& block, size_t at, double value) {
    const uint16_t bits = f32_to_f16(static_cast<float>(value));
    std::memcpy(block.data() + at, &bits, 2);
  }

  std::string bytes() const {
    GgufBuilder b;
    const std::vector<std::pair<std::string, std::string>> pairs = {
        {"general.architecture", HandMade::text("llama")},
        {"llama.embedding_length", HandMade::u32(kHidden)},
        {"llama.feed_forward_length", HandMade::u32(kFeedForward)},
        {"llama.block_count", HandMade::u32(2)},
        {"llama.attention.head_count", HandMade::u32(4)},
        {"llama.attention.head_count_kv", HandMade::u32(2)},
        {"llama.context_length", HandMade::u32(128)},
        {"llama.attention.layer_norm_rms_epsilon", HandMade::f32(1e-5F)},
        {"llama.rope.freq_base", HandMade::f32(10000)}};
    for (const auto& [key, value] : pairs) b.pairs.push_back(GgufBuilder::text(key) + value);
    Random random(seed);
    const auto add = [&](const std::string& name, int64_t rows, int64_t columns, GgmlType type) {
      std::vector<int64_t> dims = {columns};
      if (rows > 0) dims.push_back(rows);
      b.infos.push_back(GgufBuilder::info(name, dims, static_cast<uint32_t>(type), b.data.size()));
      std::string data;
      if (rows > 0) data = blocks(type, rows * columns, random);
      for (int64_t c = 0; rows == 0 && c < columns; ++c) data += little(static_cast<float>(0.5 + random.uniform()));
      for (const auto& [where, what] : damage) {
        if (where == name) data.replace(what.first, what.second.size(), what.second);
      }
      b.data += data;
      b.data.append((32 - b.data.size() % 32) % 32, '\0');
    };
    add("token_embd.weight", kVocabulary, kHidden, GgmlType::kQ8_0);
    add("output_norm.weight", 0, kHidden, GgmlType::kF32);
    add("output.weight", kVocabulary, kHidden, head);
    for (const std::string block : {"blk.0.", "blk.1."}) {
      const GgmlType type = block == "blk.0." ? linears : last;
      add(block + "attn_norm.weight", 0, kHidden, GgmlType::kF32);
      add(block + "ffn_norm.weight", 0, kHidden, GgmlType::kF32);
      add(block + "attn_q.weight", kHidden, kHidden, type);
      add(block + "attn_k.weight", kHidden / 2, kHidden, type);
      add(block + "attn_v.weight", kHidden / 2, kHidden, type);
      add(block + "attn_output.weight", kHidden, kHidden, type);
      add(block + "ffn_gate.weight", kFeedForward, kHidden, type);
      add(block + "ffn_up.weight", kFeedForward, kHidden, type);
      add(block + "ffn_down.weight", kHidden, kFeedForward, type);
    }
    return b.bytes();
  }
  std::unique_ptr<ModelSource> open(const TemporaryFolder& folder) const {
    return ModelSource::open(folder.write("model.gguf", bytes()));
  }
};

}  // namespace metal_marlin::test

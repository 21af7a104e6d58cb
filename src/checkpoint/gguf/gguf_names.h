// What the tensors of a model are called in GGUF files, and how their values stand there: as llama.cpp's
// convert_hf_to_gguf.py writes them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "families/config/model_config.h"
#include "families/family.h"

namespace metal_marlin {

struct GgufName {
  std::string name;       // Hugging Face's: "model.layers.3.self_attn.q_proj.weight"
  std::string gguf;       // "blk.3.attn_q.weight"
  int64_t heads = 0;      // > 0: rows within each head stand in pairs, as the converter interleaves q and k of Llama
  bool plus_one = false;  // stored as 1 + weight
};

// All tensors that a model of the family can have, biases too, whether this one has them or not. In the order of the
// layers: embedding, blocks, last norm, head. A tensor of several linears, such as Phi-3's qkv_proj, is listed once.
std::vector<GgufName> gguf_names(const Family& family, const ModelConfig& config);

// Row of the file that holds row r of Hugging Face's order, of `rows` over `heads`: within a head of d rows, row i of
// the first half stands at 2 i and row i of the second at 2 i + 1. heads 0: r itself.
int64_t gguf_row(int64_t r, int64_t rows, int64_t heads);
// The other way: entry f is the row of Hugging Face's order that stands in row f of the file.
std::vector<int64_t> gguf_row_order(int64_t rows, int64_t heads);

}  // namespace metal_marlin

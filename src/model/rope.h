// Rotary position embedding: the frequencies of Hugging Face's rope types, and tables of cosines and sines.
#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor.h"
#include "families/config/model_config.h"

namespace metal_marlin {

// Angles per position of the rotary_dim / 2 pairs, in float64, with the formulas of transformers' modeling_rope_utils
// (default, linear: theta^(-2i/d), divided by factor; dynamic NTK: arXiv 2306.15595's follow-up, base grown with the
// sequence; llama3; YaRN: arXiv 2309.00071; LongRoPE: arXiv 2402.13753, short factors up to the original length, long
// ones beyond). sequence_length matters to dynamic and longrope alone.
struct RopeFrequencies {
  std::vector<double> inverse;    // [rotary_dim / 2]
  double attention_factor = 1.0;  // multiplies cos and sin
};
RopeFrequencies rope_frequencies(const RopeConfig& config, int64_t head_dim, int64_t max_position_embeddings,
                                 int64_t sequence_length);

struct RopeTable {
  int64_t half = 0;  // pairs that turn; the first 2 * half dimensions of a head
  Matrix cos;        // [positions, half]
  Matrix sin;
};
// Makes the table for positions 0 .. positions-1, computed in float64 and stored in float32.
RopeTable make_rope(const RopeConfig& config, int64_t head_dim, int64_t max_position_embeddings,
                    int64_t sequence_length, int64_t positions);

}  // namespace metal_marlin

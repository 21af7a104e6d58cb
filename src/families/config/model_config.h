// The numbers that define a decoder-only transformer, read from config.json (or GGUF metadata) and checked.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace metal_marlin {

struct Family;

enum class Activation : uint8_t { kSilu, kGelu, kGeluTanh, kRelu };
enum class RopeType : uint8_t { kDefault, kLinear, kDynamic, kLlama3, kYarn, kLongrope };

// Rotary position embedding; the names are those of Hugging Face's rope_scaling / rope_parameters.
struct RopeConfig {
  double theta = 10000.0;
  RopeType type = RopeType::kDefault;
  double factor = 1.0;
  double partial_rotary_factor = 1.0;  // only the first head_dim * this dimensions turn
  int64_t original_max_position_embeddings = 0;
  bool original_given = false;    // else max_position_embeddings was taken
  double low_freq_factor = 1.0;   // llama3
  double high_freq_factor = 4.0;  // llama3
  double beta_fast = 32.0;        // yarn
  double beta_slow = 1.0;         // yarn
  double attention_factor = 0.0;  // yarn, longrope: multiplies cos and sin; 0: derived from factor (and mscale)
  double mscale = 0.0;            // yarn
  double mscale_all_dim = 0.0;    // yarn
  bool truncate = true;           // yarn: the correction range is rounded to whole dimensions
  // longrope: divisors of the frequencies, one per pair that turns, for sequences up to the original length and beyond.
  std::vector<double> short_factor;
  std::vector<double> long_factor;

  bool operator==(const RopeConfig&) const = default;
};

struct ModelConfig {
  std::string model_type;  // "llama", "gemma3_text", ...
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0;
  int64_t num_key_value_heads = 0;
  int64_t head_dim = 0;
  int64_t max_position_embeddings = 0;
  double rms_norm_eps = 1e-6;
  Activation activation = Activation::kSilu;
  bool tie_word_embeddings = false;
  bool attention_bias = false;  // q, k, v (and o where attention_output_bias)
  bool attention_output_bias = false;
  bool mlp_bias = false;
  double embedding_multiplier = 1.0;       // Gemma: sqrt(hidden_size), as transformers has it when it computes in f32
  double query_scale = 0.0;                // multiplies q k^T: 1/sqrt(head_dim) or 1/sqrt(query_pre_attn_scalar)
  double attention_logit_softcapping = 0;  // 0: none
  double final_logit_softcapping = 0;      // 0: none
  RopeConfig rope;                         // global layers
  RopeConfig local_rope;                   // layers with a sliding window where the family has two (Gemma 3)
  // Per layer, size num_hidden_layers: 0 = attends to everything; w = position p sees p-w+1 .. p.
  std::vector<int64_t> sliding_window;
  std::vector<bool> layer_uses_local_rope;
  std::vector<int32_t> eos_token_ids;
  int32_t bos_token_id = -1;
  std::string torch_dtype;            // "float16", "bfloat16", "float32"
  std::vector<std::string> warnings;  // what engines read in different ways, and what was taken: one line each
};

}  // namespace metal_marlin

// A model family as a table: the names of its tensors, its norms, its folds and its differences. One file per family
// in families/; docs/architectures.md says how to add the next.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/values.h"

namespace metal_marlin {

struct ModelConfig;
class ConfigReader;
class GgufMetadata;

// The seven linears of a block. Phi-3 stores q,k,v and gate,up in one tensor each: the parts are row ranges.
enum class LinearKind : uint8_t { kQ, kK, kV, kO, kGate, kUp, kDown };
inline constexpr int kLinears = 7;
const char* linear_kind_name(LinearKind kind) noexcept;  // "q", "k", ...
LinearInput input_of(LinearKind kind) noexcept;          // q,k,v -> kQkv; o -> kO; gate,up -> kGateUp; down -> kDown

enum class NormKind : uint8_t { kInput, kQ, kK, kPostAttention, kPreFeedForward, kPostFeedForward };
inline constexpr int kNorms = 6;

// What divides the scaled channels of an input (section 10 of the format notes).
enum class FoldProducer : uint8_t {
  kNone,
  kInputNorm,           // norm weight / s (offset norms: (1 + w) / s - 1)
  kPreFeedForwardNorm,  // the norm that feeds gate and up
  kVRows,               // rows of v (and its bias); with grouped queries one scale per kv channel
  kUpRows,              // rows of up (and its bias)
};
struct Fold {
  LinearInput input;
  FoldProducer producer;
  std::string name;  // "input_layernorm -> q_proj,k_proj,v_proj"
};

struct Family {
  std::string name;                             // "llama"
  std::vector<std::string> model_types;         // of config.json
  std::vector<std::string> architectures;       // of config.json, for configs without model_type
  std::vector<std::string> gguf_architectures;  // general.architecture

  // Module names within "model.layers.{i}.", empty where the family has none. Several kinds with one name: rows of it
  // in the order of LinearKind.
  std::array<std::string, kLinears> linears;  // "self_attn.q_proj", ...
  std::array<std::string, kNorms> norms;      // "input_layernorm", "self_attn.q_norm", ..., kPreFeedForward is the
                                              // norm before the MLP ("post_attention_layernorm" in Llama)
  std::string layer_prefix = "model.layers.";
  std::string embedding = "model.embed_tokens.weight";
  std::string final_norm = "model.norm.weight";
  std::string head = "lm_head.weight";

  // Numbers that config.json may leave out, as transformers' configuration class has them.
  std::vector<std::pair<std::string, int64_t>> defaults;
  bool offset_norm = false;         // y * (1 + weight)
  bool partial_rotary = false;      // partial_rotary_factor means the same to all engines
  bool rope_by_layer_type = false;  // rope_parameters holds one set for each of the layers' types
  bool gguf_permutes_qk = false;    // llama.cpp's converter interleaves the rows of q and k
  bool gguf_norm_plus_one = false;  // llama.cpp's converter stores 1 + weight
  std::vector<Fold> folds;          // in the order in which they are applied
  // Sets the fields of ModelConfig in which the family differs (activation default, windows, scales, ...), called
  // after the common keys were read.
  std::function<void(const ConfigReader& config, ModelConfig& out)> configure;
  // Adds the family's own keys to a config.json rebuilt from GGUF metadata (common ones are there already).
  std::function<void(const GgufMetadata& metadata, nlohmann::json& config)> configure_gguf;
};

}  // namespace metal_marlin

#include "families/configure.h"
#include "families/families.h"

namespace metal_marlin {
namespace {

// The MLP has no biases, and layers from max_window_layers on slide, if use_sliding_window says so.
void configure_common(const ConfigReader& config, ModelConfig& out) {
  out.mlp_bias = false;
  const bool use = config.find_bool("use_sliding_window").value_or(false);
  std::optional<int64_t> window;
  if (use) window = config.names("sliding_window") ? config.find_int("sliding_window", 1, kLargestSize) : 4096;
  const int64_t first = config.find_int("max_window_layers", 0, kLargestSize).value_or(28);
  set_windows(config, window, [&](int64_t layer) { return window && layer >= first; }, out);
}

}  // namespace

// Llama with biases on q, k, v.
const Family& qwen2_family() {
  static const Family kFamily = [] {
    Family f;
    f.name = "qwen2";
    f.model_types = {"qwen2"};
    f.architectures = {"Qwen2ForCausalLM"};
    f.gguf_architectures = {"qwen2"};
    f.linears = llama_linears();
    f.norms = llama_norms();
    f.defaults = {{"num_key_value_heads", 32}, {"max_position_embeddings", 32768}};
    f.folds = llama_folds();
    f.configure = [](const ConfigReader& config, ModelConfig& out) {
      out.attention_bias = true;
      out.attention_output_bias = false;
      configure_common(config, out);
    };
    return f;
  }();
  return kFamily;
}

// Norms of q and k per head; no biases by default.
const Family& qwen3_family() {
  static const Family kFamily = [] {
    Family f = qwen2_family();
    f.name = "qwen3";
    f.model_types = {"qwen3"};
    f.architectures = {"Qwen3ForCausalLM"};
    f.gguf_architectures = {"qwen3"};
    f.norms[static_cast<size_t>(NormKind::kQ)] = "self_attn.q_norm";
    f.norms[static_cast<size_t>(NormKind::kK)] = "self_attn.k_norm";
    f.defaults.emplace_back("head_dim", 128);
    f.configure = configure_common;
    return f;
  }();
  return kFamily;
}

}  // namespace metal_marlin

#include <nlohmann/json.hpp>

#include "families/families.h"
#include "formats/gguf.h"

namespace metal_marlin {

// llama.cpp's converter drops query_pre_attn_scalar. llama.cpp takes the head dimension, and for the two 27B models,
// which it knows by their number of layers, hidden_size / heads.
void configure_gemma_gguf(const GgufMetadata& metadata, nlohmann::json& config, const std::string& architecture) {
  const std::string prefix = architecture + ".";
  config["hidden_activation"] = "gelu_pytorch_tanh";
  config["tie_word_embeddings"] = true;
  const bool is_27b = config["num_hidden_layers"] == (architecture == "gemma2" ? 46 : 62);
  config["query_pre_attn_scalar"] =
      is_27b ? config["hidden_size"].get<int64_t>() / config["num_attention_heads"].get<int64_t>()
             : config["head_dim"].get<int64_t>();
  if (const auto window = metadata.find_u64(prefix + "attention.sliding_window")) config["sliding_window"] = *window;
  if (const auto cap = metadata.find_f64(prefix + "attn_logit_softcapping")) config["attn_logit_softcapping"] = *cap;
  if (const auto cap = metadata.find_f64(prefix + "final_logit_softcapping")) config["final_logit_softcapping"] = *cap;
  if (architecture == "gemma3") {
    config["sliding_window_pattern"] = 6;
    if (const auto theta = metadata.find_f64(prefix + "rope.freq_base_swa")) config["rope_local_base_freq"] = *theta;
  }
}

}  // namespace metal_marlin

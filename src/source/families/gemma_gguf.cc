#include <nlohmann/json.hpp>

#include "formats/gguf.h"
#include "source/families/families.h"

namespace metal_marlin {

// llama.cpp's converter drops query_pre_attn_scalar: both then scale by the head dimension, as llama.cpp does (the
// 27B models divide by hidden_size / heads instead; their metadata carries no key for it either).
void configure_gemma_gguf(const GgufMetadata& metadata, nlohmann::json& config, const std::string& architecture) {
  const std::string prefix = architecture + ".";
  config["hidden_activation"] = "gelu_pytorch_tanh";
  config["tie_word_embeddings"] = true;
  config["query_pre_attn_scalar"] = config["head_dim"];
  if (const auto window = metadata.find_u64(prefix + "attention.sliding_window")) config["sliding_window"] = *window;
  if (const auto cap = metadata.find_f64(prefix + "attn_logit_softcapping")) config["attn_logit_softcapping"] = *cap;
  if (const auto cap = metadata.find_f64(prefix + "final_logit_softcapping")) config["final_logit_softcapping"] = *cap;
  if (architecture == "gemma3") {
    config["sliding_window_pattern"] = 6;
    if (const auto theta = metadata.find_f64(prefix + "rope.freq_base_swa")) config["rope_local_base_freq"] = *theta;
  }
}

}  // namespace metal_marlin

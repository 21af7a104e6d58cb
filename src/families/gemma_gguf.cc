#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <nlohmann/json.hpp>
#include <vector>

#include "core/counted.h"
#include "families/families.h"
#include "families/gguf_defaults.h"
#include "formats/gguf.h"
#include "formats/text.h"

namespace metal_marlin {

std::string gguf_architecture(const Family& family) {
  // Mistral is a Llama there.
  return family.gguf_architectures.empty() ? "llama" : family.gguf_architectures.front();
}

int64_t gguf_query_scalar(std::string_view architecture, int64_t layers, int64_t hidden_size, int64_t heads,
                          int64_t head_dim) {
  const bool is_27b = (architecture == "gemma2" && layers == 46) || (architecture == "gemma3" && layers == 62);
  return is_27b ? hidden_size / heads : head_dim;
}

bool gguf_layer_slides(std::string_view architecture, int64_t layer) {
  return architecture == "gemma2" ? layer % 2 == 0 : (layer + 1) % 6 != 0;
}

namespace {

// The layers that slide, where the file says it: an array with one entry for each, or a number n for all but every
// n-th, 0 for all and 1 for none.
void read_pattern(const GgufMetadata& metadata, const std::string& key, nlohmann::json& config) {
  const GgufValue* value = metadata.find(key);
  if (value == nullptr) return;
  const auto layers = config["num_hidden_layers"].get<int64_t>();
  std::vector<int64_t> slides;
  if (value->type == GgufType::kArray) {
    if (value->element == GgufType::kBool) {
      const std::vector<bool> bools = *metadata.find_bools(key);
      slides.assign(bools.begin(), bools.end());
    } else {
      slides = *metadata.find_ints(key);
    }
    if (static_cast<int64_t>(slides.size()) < layers)
      throw FormatError(fmt::format("{}: expected {}, one per layer, found {}; convert the model anew", shown(key),
                                    counted(layers, "entry", "entries"), slides.size()));
  } else {
    const auto n = static_cast<int64_t>(metadata.get_u64(key));
    for (int64_t i = 0; i < layers; ++i) slides.push_back(n == 0 || i % n < n - 1 ? 1 : 0);
  }
  nlohmann::json types = nlohmann::json::array();
  for (int64_t i = 0; i < layers; ++i)
    types.push_back(slides[static_cast<size_t>(i)] != 0 ? "sliding_attention" : "full_attention");
  config["layer_types"] = std::move(types);
}

}  // namespace

void configure_gemma_gguf(const GgufMetadata& metadata, nlohmann::json& config, const std::string& architecture) {
  const std::string prefix = architecture + ".";
  config["hidden_activation"] = "gelu_pytorch_tanh";
  config["tie_word_embeddings"] = true;
  config["query_pre_attn_scalar"] =
      gguf_query_scalar(architecture, config["num_hidden_layers"].get<int64_t>(), config["hidden_size"].get<int64_t>(),
                        config["num_attention_heads"].get<int64_t>(), config["head_dim"].get<int64_t>());
  const auto window = metadata.find_u64(prefix + "attention.sliding_window");
  if (window) config["sliding_window"] = *window;
  if (const auto cap = metadata.find_f64(prefix + "attn_logit_softcapping")) config["attn_logit_softcapping"] = *cap;
  if (const auto cap = metadata.find_f64(prefix + "final_logit_softcapping")) config["final_logit_softcapping"] = *cap;
  if (architecture == "gemma3") {
    // Without a window no layer slides.
    config["sliding_window_pattern"] = window ? 6 : 1;
    if (const auto theta = metadata.find_f64(prefix + "rope.freq_base_swa")) config["rope_local_base_freq"] = *theta;
  }
  if (architecture == "gemma2" || window) read_pattern(metadata, prefix + "attention.sliding_window_pattern", config);
}

}  // namespace metal_marlin

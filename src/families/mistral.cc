#include "families/configure.h"
#include "families/families.h"

namespace metal_marlin {

// Llama with a sliding window in every layer (or none). llama.cpp's converter calls it "llama" and drops the window.
const Family& mistral_family() {
  static const Family kFamily = [] {
    Family f;
    f.name = "mistral";
    f.model_types = {"mistral"};
    f.architectures = {"MistralForCausalLM"};
    f.linears = llama_linears();
    f.norms = llama_norms();
    f.gguf_permutes_qk = true;
    f.defaults = {{"num_key_value_heads", 8}, {"max_position_embeddings", 131072}};
    f.folds = llama_folds();
    f.configure = [](const ConfigReader& config, ModelConfig& out) {
      out.attention_bias = out.attention_output_bias = out.mlp_bias = false;  // whatever the config says
      // A missing key means the family's default, null means none.
      const auto window = config.names("sliding_window") ? config.find_int("sliding_window", 1, kLargestSize) : 4096;
      set_windows(config, window, [&](int64_t) { return window.has_value(); }, out);
    };
    return f;
  }();
  return kFamily;
}

}  // namespace metal_marlin

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <nlohmann/json.hpp>

#include "families/configure.h"
#include "families/families.h"
#include "formats/gguf.h"

namespace metal_marlin {

// q, k, v in one tensor and gate, up in another; rotary embedding of a part of the head.
const Family& phi3_family() {
  static const Family kFamily = [] {
    Family f;
    f.name = "phi3";
    f.model_types = {"phi3"};
    f.architectures = {"Phi3ForCausalLM"};
    f.gguf_architectures = {"phi3"};
    f.linears = {"self_attn.qkv_proj", "self_attn.qkv_proj", "self_attn.qkv_proj", "self_attn.o_proj",
                 "mlp.gate_up_proj",   "mlp.gate_up_proj",   "mlp.down_proj"};
    f.norms = llama_norms();
    f.partial_rotary = true;
    f.defaults = {{"max_position_embeddings", 4096}};
    f.folds = {{LinearInput::kQkv, FoldProducer::kInputNorm, "input_layernorm -> qkv_proj"},
               {LinearInput::kO, FoldProducer::kVRows, "qkv_proj (v) -> o_proj"},
               {LinearInput::kGateUp, FoldProducer::kPreFeedForwardNorm, "post_attention_layernorm -> gate_up_proj"},
               {LinearInput::kDown, FoldProducer::kUpRows, "gate_up_proj (up) -> down_proj"}};
    f.configure = [](const ConfigReader& config, ModelConfig& out) {
      out.attention_bias = out.attention_output_bias = out.mlp_bias = false;  // whatever the config says
      if (!config.has("rms_norm_eps")) out.rms_norm_eps = 1e-5;
      // transformers takes this family's "yarn" for longrope, which read_rope has done where the factors are given.
      if (out.rope.type == RopeType::kYarn) {
        throw UnsupportedError(fmt::format(
            "{}: rope type \"yarn\" means \"longrope\" in this family and needs short_factor and long_factor",
            config.file()));
      }
      const auto window = config.find_int("sliding_window", 1, kLargestSize);
      set_windows(config, window, [&](int64_t) { return window.has_value(); }, out);
    };
    f.configure_gguf = [](const GgufMetadata& metadata, nlohmann::json& config) {
      if (const auto window = metadata.find_u64("phi3.attention.sliding_window"); window && *window > 0)
        config["sliding_window"] = *window;
    };
    return f;
  }();
  return kFamily;
}

}  // namespace metal_marlin

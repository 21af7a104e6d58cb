#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <cmath>

#include "families/configure.h"
#include "families/families.h"

namespace metal_marlin {
namespace {

// What Gemma 2 and 3 share: offset norms, norms after attention and MLP, scaled embeddings, tied head, own query scale.
void configure_common(const ConfigReader& config, ModelConfig& out) {
  out.mlp_bias = false;
  if (config.find_bool("use_bidirectional_attention").value_or(false)) {
    throw UnsupportedError(
        fmt::format("{}: use_bidirectional_attention: an encoder is not supported, only models that attend to the past",
                    config.file()));
  }
  out.activation = read_activation(config, "hidden_activation", Activation::kGeluTanh);
  out.tie_word_embeddings = config.find_bool("tie_word_embeddings").value_or(true);
  out.embedding_multiplier = std::sqrt(static_cast<double>(out.hidden_size));
  out.query_scale = 1 / std::sqrt(config.find_number("query_pre_attn_scalar", 1e-6, 1e9).value_or(256));
}

Family gemma_common() {
  Family f;
  f.linears = llama_linears();
  f.norms = {"input_layernorm",           "", "", "post_attention_layernorm", "pre_feedforward_layernorm",
             "post_feedforward_layernorm"};
  f.defaults = {{"num_attention_heads", 8}, {"num_key_value_heads", 4}, {"head_dim", 256}};
  f.offset_norm = true;
  f.gguf_norm_plus_one = true;
  return f;
}

// transformers looks for the sets of full_attention and sliding_attention alone.
void warn_of_flat_rope(const ConfigReader& config, const RopeConfig& flat, const RopeConfig& counts, double local_theta,
                       ModelConfig& out) {
  if (flat == counts) return;
  out.warnings.push_back(fmt::format(
      "{}: rope_parameters holds one set, where the family gemma3 has one for full_attention and one for "
      "sliding_attention: it is not used, as in transformers, and rope_theta {:g} and {:g} (sliding) count; "
      "other engines may use it: put its keys into rope_parameters.full_attention",
      config.file(), counts.theta, local_theta));
}

}  // namespace

const Family& gemma2_family() {
  static const Family kFamily = [] {
    Family f = gemma_common();
    f.name = "gemma2";
    f.model_types = {"gemma2"};
    f.architectures = {"Gemma2ForCausalLM"};
    f.gguf_architectures = {"gemma2"};
    f.defaults.insert(f.defaults.end(), {{"vocab_size", 256000}, {"max_position_embeddings", 8192}});
    f.folds = llama_folds();
    f.folds[2].name = "pre_feedforward_layernorm -> gate_proj,up_proj";
    f.configure = [](const ConfigReader& config, ModelConfig& out) {
      configure_common(config, out);
      // A missing key means the family's default, null means none.
      const auto cap = [&](const char* key, double otherwise) {
        return config.names(key) ? config.find_number(key, 0, 1e9).value_or(0) : otherwise;
      };
      out.attention_logit_softcapping = cap("attn_logit_softcapping", 50);
      out.final_logit_softcapping = cap("final_logit_softcapping", 30);
      const int64_t window = config.find_int("sliding_window", 1, kLargestSize).value_or(4096);
      set_windows(config, window, [](int64_t layer) { return layer % 2 == 0; }, out);
    };
    f.configure_gguf = [](const GgufMetadata& metadata, nlohmann::json& config) {
      configure_gemma_gguf(metadata, config, "gemma2");
    };
    return f;
  }();
  return kFamily;
}

// Also norms of q and k. Folding a scale into input_layernorm would be exact, but those norms undo what it gains: it
// measured worse than plain rounding elsewhere, so q, k, v are not scaled.
const Family& gemma3_family() {
  static const Family kFamily = [] {
    Family f = gemma_common();
    f.name = "gemma3";
    f.model_types = {"gemma3_text"};
    f.rope_by_layer_type = true;
    f.architectures = {"Gemma3ForCausalLM"};
    f.gguf_architectures = {"gemma3"};
    // The multimodal sizes' files rely on these.
    f.defaults.insert(f.defaults.end(), {{"vocab_size", 262208}, {"max_position_embeddings", 131072}});
    f.norms[static_cast<size_t>(NormKind::kQ)] = "self_attn.q_norm";
    f.norms[static_cast<size_t>(NormKind::kK)] = "self_attn.k_norm";
    f.folds = llama_folds();
    f.folds.erase(f.folds.begin());
    f.folds[1].name = "pre_feedforward_layernorm -> gate_proj,up_proj";
    f.configure = [](const ConfigReader& config, ModelConfig& out) {
      configure_common(config, out);
      out.attention_logit_softcapping = config.find_number("attn_logit_softcapping", 0, 1e9).value_or(0);
      out.final_logit_softcapping = config.find_number("final_logit_softcapping", 0, 1e9).value_or(0);
      const int64_t window = config.find_int("sliding_window", 1, kLargestSize).value_or(4096);
      int64_t pattern = config.find_int("_sliding_window_pattern", 1, kLargestSize).value_or(6);
      pattern = config.find_int("sliding_window_pattern", 1, kLargestSize).value_or(pattern);
      set_windows(config, window, [&](int64_t layer) { return (layer + 1) % pattern != 0; }, out);
      RopeConfig global;
      global.theta = config.find_number("rope_theta", 1, 1e12).value_or(1e6);
      global.original_max_position_embeddings = out.max_position_embeddings;
      global.original_given = config.has("original_max_position_embeddings");
      global.partial_rotary_factor = config.find_number("partial_rotary_factor", 1e-6, 1).value_or(1.0);
      RopeConfig local;
      local.theta = config.find_number("rope_local_base_freq", 1, 1e12).value_or(10000);
      local.original_max_position_embeddings = out.max_position_embeddings;
      local.original_given = global.original_given;
      local.partial_rotary_factor = global.partial_rotary_factor;
      if (const auto parameters = config.find_object("rope_parameters")) {
        const auto full = parameters->find_object("full_attention");
        const auto sliding = parameters->find_object("sliding_attention");
        if (full) global = read_rope(*full, global);
        if (sliding) local = read_rope(*sliding, local);
        if (!full && !sliding) warn_of_flat_rope(config, read_rope(*parameters, global), global, local.theta, out);
      }
      if (const auto scaling = config.find_object("rope_scaling")) global = read_rope(*scaling, global);
      out.rope = global;
      out.local_rope = local;
      for (size_t i = 0; i < out.sliding_window.size(); ++i) out.layer_uses_local_rope[i] = out.sliding_window[i] > 0;
    };
    f.configure_gguf = [](const GgufMetadata& metadata, nlohmann::json& config) {
      configure_gemma_gguf(metadata, config, "gemma3");
    };
    return f;
  }();
  return kFamily;
}

}  // namespace metal_marlin

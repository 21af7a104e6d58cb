// The keys of an architecture from a model's config, and what llama.cpp's architectures cannot express.
#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <span>
#include <string_view>
#include <utility>

#include "checkpoint/gguf/gguf_metadata.h"
#include "checkpoint/gguf/gguf_parts.h"
#include "families/gguf_defaults.h"

namespace metal_marlin {
namespace {

class ArchitectureKeys {
 public:
  explicit ArchitectureKeys(const ModelSource& source)
      : source_(source), c_(source.config()), architecture_(gguf_architecture(source.family())) {}

  GgufKeys make() {
    refuse_what_has_no_place();
    out_.pairs.push_back(gguf_pair<std::string_view>("general.architecture", architecture_));
    u32("context_length", c_.max_position_embeddings);
    u32("embedding_length", c_.hidden_size);
    u32("block_count", c_.num_hidden_layers);
    u32("feed_forward_length", c_.intermediate_size);
    u32("attention.head_count", c_.num_attention_heads);
    u32("attention.head_count_kv", c_.num_key_value_heads);
    u32("attention.key_length", c_.head_dim);
    u32("attention.value_length", c_.head_dim);
    f32("attention.layer_norm_rms_epsilon", c_.rms_norm_eps);
    if (llama()) u32("vocab_size", c_.vocab_size);
    if (c_.attention_logit_softcapping > 0) f32("attn_logit_softcapping", c_.attention_logit_softcapping);
    if (c_.final_logit_softcapping > 0) f32("final_logit_softcapping", c_.final_logit_softcapping);
    add_windows();
    add_rope();
    return std::move(out_);
  }

 private:
  bool llama() const { return architecture_ == "llama"; }
  bool phi3() const { return architecture_ == "phi3"; }
  bool gemma() const { return architecture_ == "gemma2" || architecture_ == "gemma3"; }

  void u32(const char* key, int64_t value) {
    out_.pairs.push_back(gguf_pair<uint32_t>(architecture_ + "." + key, static_cast<uint32_t>(value)));
  }
  void f32(const char* key, double value) {
    out_.pairs.push_back(gguf_pair<float>(architecture_ + "." + key, static_cast<float>(value)));
  }
  void text(const char* key, std::string_view value) {
    out_.pairs.push_back(gguf_pair<std::string_view>(architecture_ + "." + key, value));
  }

  [[noreturn]] void refuse(const std::string& what, const std::string& expected, const std::string& found) const {
    throw UnsupportedError(
        fmt::format("{}: {}: GGUF's architecture {} has {} alone, found {}; write the model in another format",
                    source_.path(), what, architecture_, expected, found));
  }

  void refuse_what_has_no_place() const {
    const Activation own = gemma() ? Activation::kGeluTanh : Activation::kSilu;
    if (c_.activation != own)
      refuse(gemma() ? "hidden_activation" : "hidden_act", gemma() ? "gelu_pytorch_tanh" : "silu", "another");
    if ((architecture_ == "qwen2" || phi3()) && c_.head_dim * c_.num_attention_heads != c_.hidden_size)
      refuse("head_dim", "hidden_size / num_attention_heads", fmt::format("{}", c_.head_dim));
    if (c_.attention_output_bias && !llama()) refuse("attention_bias", "no bias on o_proj", "one");
    if (gemma() && c_.attention_bias) refuse("attention_bias", "no biases", "some");
    if (c_.mlp_bias && !llama()) refuse("mlp_bias", "no biases of the MLP", "some");
    if (architecture_ == "gemma2" && (c_.attention_logit_softcapping == 0 || c_.final_logit_softcapping == 0))
      refuse("attn_logit_softcapping, final_logit_softcapping", "models with both", "one without");
    if (architecture_ != "gemma2" && c_.attention_logit_softcapping > 0)
      refuse("attn_logit_softcapping", "none", fmt::format("{:.6g}", c_.attention_logit_softcapping));
    if (architecture_ == "gemma2" && source_.has(source_.family().head))
      refuse(source_.family().head, "the embedding as head", "a head of its own");
    const double scale =
        1 / std::sqrt(static_cast<double>(gguf_query_scalar(architecture_, c_.num_hidden_layers, c_.hidden_size,
                                                            c_.num_attention_heads, c_.head_dim)));
    if (std::fabs(c_.query_scale / scale - 1) > 1e-6)
      refuse(gemma() ? "query_pre_attn_scalar" : "head_dim", fmt::format("{:.6g}", 1 / (scale * scale)),
             fmt::format("{:.6g}", 1 / (c_.query_scale * c_.query_scale)));
    const int64_t turning = gguf_turning_dimensions(c_);
    if (turning != c_.head_dim && !phi3())
      refuse("partial_rotary_factor", "heads that turn whole",
             fmt::format("{} of {} dimensions", turning, c_.head_dim));
  }

  // Gemma 2 and 3 have windows in llama.cpp. Phi-3's is stored, and llama.cpp does not use it.
  void add_windows() {
    int64_t window = 0;
    for (const int64_t w : c_.sliding_window) {
      if (w > 0 && window > 0 && w != window)
        refuse("sliding_window", "one window", fmt::format("{} and {} tokens", window, w));
      window = std::max(window, w);
    }
    const bool all = std::none_of(c_.sliding_window.begin(), c_.sliding_window.end(), [](int64_t w) { return w == 0; });
    if (phi3()) {
      if (window > 0 && !all) refuse("layer_types", "a window in all layers or in none", "it in some");
      u32("attention.sliding_window", window);
    }
    if (!gemma()) {
      if (window > 0 && window < c_.max_position_embeddings)
        out_.warnings.push_back(fmt::format(
            "{}: sliding_window {}: llama.cpp uses none for the architecture {}; each token sees all before "
            "it there, so texts of more than {} tokens are computed differently",
            source_.path(), window, architecture_, window));
      return;
    }
    if (window > 0) u32("attention.sliding_window", window);
    if (window == 0 && architecture_ == "gemma3") return;
    const size_t layers = c_.sliding_window.size();
    const auto slides = std::make_unique<bool[]>(layers);
    bool usual = true;
    for (size_t i = 0; i < layers; ++i) {
      slides[i] = c_.sliding_window[i] > 0;
      usual = usual && slides[i] == gguf_layer_slides(architecture_, static_cast<int64_t>(i));
    }
    if (!usual)
      out_.pairs.push_back(gguf_array<bool>(architecture_ + ".attention.sliding_window_pattern",
                                            std::span<const bool>(slides.get(), layers)));
  }

  void add_rope() {
    const RopeConfig& rope = c_.rope;
    if (llama() || phi3()) u32("rope.dimension_count", gguf_turning_dimensions(c_));
    f32("rope.freq_base", rope.theta);
    if (architecture_ == "gemma3") {
      const RopeConfig& local = c_.local_rope;
      if (local.type != RopeType::kDefault || local.partial_rotary_factor != rope.partial_rotary_factor)
        refuse("rope_parameters.sliding_attention", "no scaling in layers that slide", "some");
      f32("rope.freq_base_swa", local.theta);
    }
    switch (rope.type) {
      case RopeType::kDefault:
        if (phi3()) u32("rope.scaling.original_context_length", original(rope));
        break;
      case RopeType::kLinear:
        text("rope.scaling.type", "linear");
        f32("rope.scaling.factor", rope.factor);
        break;
      case RopeType::kDynamic:
        refuse("rope type", "default, linear, yarn, llama3 and longrope", "dynamic");
      case RopeType::kLlama3:  // a tensor of factors says it
        if (!llama()) refuse("rope type", "no llama3 scaling: the architecture llama", "llama3");
        break;
      case RopeType::kYarn:
        add_yarn(rope);
        break;
      case RopeType::kLongrope:
        if (!phi3()) refuse("rope type", "no longrope scaling: the architecture phi3", "longrope");
        u32("rope.scaling.original_context_length", original(rope));
        f32("rope.scaling.attn_factor", longrope_factor(rope));
        break;
    }
  }

  int64_t original(const RopeConfig& rope) const {
    return rope.original_given ? rope.original_max_position_embeddings : c_.max_position_embeddings;
  }

  double longrope_factor(const RopeConfig& rope) const {
    if (rope.attention_factor > 0) return rope.attention_factor;
    const auto length = static_cast<double>(original(rope));
    const double scale = rope.factor > 0 ? rope.factor : static_cast<double>(c_.max_position_embeddings) / length;
    return scale <= 1 ? 1 : std::sqrt(1 + std::log(scale) / std::log(length));
  }

  void add_yarn(const RopeConfig& rope) {
    if (gemma() || phi3()) refuse("rope type", "default and linear scaling", "yarn");
    const double usual = rope.factor <= 1 ? 1 : 0.1 * std::log(rope.factor) + 1;
    if (rope.attention_factor > 0 && std::fabs(rope.attention_factor / usual - 1) > 1e-6)
      refuse("rope_scaling.attention_factor", fmt::format("{:.6g}", usual),
             fmt::format("{:.6g}", rope.attention_factor));
    if (rope.attention_factor == 0 && rope.mscale != 0 && rope.mscale_all_dim != 0)
      refuse("rope_scaling.mscale", "none", fmt::format("{:.6g}", rope.mscale));
    if (!rope.truncate) refuse("rope_scaling.truncate", "true", "false");
    text("rope.scaling.type", "yarn");
    f32("rope.scaling.factor", rope.factor);
    u32("rope.scaling.original_context_length", original(rope));
    f32("rope.scaling.yarn_beta_fast", rope.beta_fast);
    f32("rope.scaling.yarn_beta_slow", rope.beta_slow);
  }

  const ModelSource& source_;
  const ModelConfig& c_;
  const std::string architecture_;
  GgufKeys out_;
};

}  // namespace

GgufKeys gguf_architecture_keys(const ModelSource& source) {
  return ArchitectureKeys(source).make();
}

}  // namespace metal_marlin

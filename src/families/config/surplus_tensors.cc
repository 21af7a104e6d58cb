#include "families/config/surplus_tensors.h"

#include <algorithm>
#include <array>
#include <string_view>

namespace metal_marlin {
namespace {

template <size_t N>
bool any_of(const std::array<std::string_view, N>& list, const auto& fits) {
  return std::any_of(list.begin(), list.end(), fits);
}

// Dot-separated parts of a name, from the front.
std::string_view part_of(std::string_view name, int index) {
  for (; index > 0; --index) {
    const size_t dot = name.find('.');
    if (dot == std::string_view::npos) return {};
    name.remove_prefix(dot + 1);
  }
  return name.substr(0, name.find('.'));
}

bool names_a_tower(std::string_view part) {
  static constexpr std::array<std::string_view, 17> kWords = {
      "vision", "visual",    "image",     "vit",       "audio",     "speech",  "video", "multi_modal", "multimodal",
      "mm_",    "projector", "connector", "resampler", "perceiver", "qformer", "mtp",   "medusa"};
  return part == "embed_tokens_extend" || part == "eagle" ||
         any_of(kWords, [&](std::string_view word) { return part.find(word) != std::string_view::npos; });
}

bool is_buffer(std::string_view name, const std::vector<int64_t>& shape) {
  static constexpr std::array<std::string_view, 9> kEnds = {"inv_freq",     "original_inv_freq", "cos_cached",
                                                            "sin_cached",   "masked_bias",       "freqs_cis",
                                                            "position_ids", "causal_mask",       "num_batches_tracked"};
  const std::string_view last = name.substr(name.rfind('.') + 1);
  if (name.ends_with("rope.freqs") || any_of(kEnds, [&](std::string_view end) { return last == end; })) return true;
  // The causal mask of GPT's attention has the name of a bias, but four dimensions.
  static constexpr std::array<std::string_view, 3> kMasks = {"attn.bias", "attention.bias", "attn.mask"};
  return shape.size() > 2 && any_of(kMasks, [&](std::string_view end) { return name.ends_with(end); });
}

bool is_cache_scale(std::string_view name) {
  static constexpr std::array<std::string_view, 10> kEnds = {
      "attn.k_scale",   "attn.v_scale",   "attn.kv_scale",       "attn.q_scale",        "attn.prob_scale",
      "k_proj.k_scale", "v_proj.v_scale", "k_proj.output_scale", "v_proj.output_scale", "qkv_proj.kv_scale"};
  return any_of(kEnds, [&](std::string_view end) { return name.ends_with(end); });
}

}  // namespace

SurplusKind surplus_kind(const std::string& name, const std::vector<int64_t>& shape) {
  if (is_buffer(name, shape)) return SurplusKind::kBuffer;
  if (is_cache_scale(name)) return SurplusKind::kCacheScale;
  const std::string_view root = part_of(name, 0);
  if (root == "model") {
    return names_a_tower(part_of(name, 1)) ? SurplusKind::kForeign : SurplusKind::kOfTheModel;
  }
  if (names_a_tower(root)) return SurplusKind::kForeign;
  static constexpr std::array<std::string_view, 9> kOwn = {
      "lm_head", "language_model", "transformer", "decoder", "layers", "blocks", "h", "wte", "wpe"};
  if (any_of(kOwn, [&](std::string_view own) { return root == own; })) return SurplusKind::kOfTheModel;
  static constexpr std::array<std::string_view, 3> kWords = {"norm", "embed", "position"};
  const bool own = any_of(kWords, [&](std::string_view word) { return root.find(word) != std::string_view::npos; });
  return own ? SurplusKind::kOfTheModel : SurplusKind::kForeign;
}

SurplusKind gguf_surplus_kind(const std::string& name) {
  if (name.ends_with("attn_rot_embd") || name.ends_with("attn_rot_embd.weight") ||
      name.ends_with("rope_freqs.weight") || name.ends_with("rope.freqs")) {
    return SurplusKind::kBuffer;
  }
  const std::string_view root = part_of(name, 0);
  static constexpr std::array<std::string_view, 8> kRoots = {"v", "a", "mm", "cls", "resampler", "mtp", "nextn", "t"};
  const bool foreign = names_a_tower(root) || any_of(kRoots, [&](std::string_view other) { return root == other; });
  return foreign ? SurplusKind::kForeign : SurplusKind::kOfTheModel;
}

}  // namespace metal_marlin

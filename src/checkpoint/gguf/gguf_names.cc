#include "checkpoint/gguf/gguf_names.h"

#include <fmt/format.h>

#include "families/tensor_names.h"

namespace metal_marlin {
namespace {

// Names of a block's tensors in GGUF, by LinearKind and NormKind.
constexpr const char* kLinearNames[kLinears] = {"attn_q",   "attn_k", "attn_v",  "attn_output",
                                                "ffn_gate", "ffn_up", "ffn_down"};
constexpr const char* kNormNames[kNorms] = {"attn_norm",           "attn_q_norm", "attn_k_norm",
                                            "post_attention_norm", "ffn_norm",    "post_ffw_norm"};

// The name of a linear's tensor; empty where another linear of the same tensor stands for it.
std::string linear_name(const Family& family, LinearKind kind) {
  const auto module = [&](LinearKind k) -> const std::string& { return family.linears[static_cast<size_t>(k)]; };
  if (kind == LinearKind::kQ && module(LinearKind::kQ) == module(LinearKind::kK)) return "attn_qkv";
  if (kind == LinearKind::kGate && module(LinearKind::kGate) == module(LinearKind::kUp)) return "ffn_up";
  for (int k = 0; k < static_cast<int>(kind); ++k)
    if (module(static_cast<LinearKind>(k)) == module(kind)) return {};
  return kLinearNames[static_cast<size_t>(kind)];
}

void add_block(const Family& family, const ModelConfig& config, int64_t layer, std::vector<GgufName>& out) {
  const std::string from = fmt::format("{}{}.", family.layer_prefix, layer);
  const std::string to = fmt::format("blk.{}.", layer);
  for (int k = 0; k < kNorms; ++k) {
    const std::string& module = family.norms[static_cast<size_t>(k)];
    if (module.empty()) continue;
    out.push_back({from + module + ".weight", to + kNormNames[k] + ".weight", 0, family.gguf_norm_plus_one});
    out.push_back({from + module + ".bias", to + kNormNames[k] + ".bias"});
  }
  for (int k = 0; k < kLinears; ++k) {
    const auto kind = static_cast<LinearKind>(k);
    const std::string name = linear_name(family, kind);
    if (name.empty()) continue;
    int64_t heads = 0;
    if (family.gguf_permutes_qk && kind == LinearKind::kQ) heads = config.num_attention_heads;
    if (family.gguf_permutes_qk && kind == LinearKind::kK) heads = config.num_key_value_heads;
    for (const char* part : {".weight", ".bias"})
      out.push_back({from + family.linears[static_cast<size_t>(k)] + part, to + name + part, heads});
  }
}

}  // namespace

std::vector<GgufName> gguf_names(const Family& family, const ModelConfig& config) {
  std::vector<GgufName> out;
  out.push_back({family.embedding, "token_embd.weight"});
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) add_block(family, config, layer, out);
  out.push_back({family.final_norm, "output_norm.weight", 0, family.gguf_norm_plus_one});
  out.push_back({bias_name(family.final_norm), "output_norm.bias"});
  out.push_back({family.head, "output.weight"});
  out.push_back({bias_name(family.head), "output.bias"});
  return out;
}

int64_t gguf_row(int64_t r, int64_t rows, int64_t heads) {
  if (heads == 0) return r;
  const int64_t d = rows / heads;
  const int64_t i = r % d;
  return r - i + (i < d / 2 ? 2 * i : 2 * (i - d / 2) + 1);
}

std::vector<int64_t> gguf_row_order(int64_t rows, int64_t heads) {
  std::vector<int64_t> order(static_cast<size_t>(rows));
  for (int64_t r = 0; r < rows; ++r) order[static_cast<size_t>(gguf_row(r, rows, heads))] = r;
  return order;
}

}  // namespace metal_marlin

#include "checkpoint/gguf/gguf_tokenizer_keys.h"

#include <fmt/format.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace metal_marlin {

GgufTokenizerData read_gguf_tokenizer(const GgufMetadata& m) {
  GgufTokenizerData d;
  // What is missing stays empty, which rebuild_gguf_tokenizer refuses with the cure.
  if (m.contains("tokenizer.ggml.model")) d.model = m.get_string("tokenizer.ggml.model");
  d.pre = m.find_string("tokenizer.ggml.pre").value_or("");
  if (m.contains("tokenizer.ggml.tokens")) d.tokens = m.get_strings("tokenizer.ggml.tokens");
  if (const auto types = m.find_ints("tokenizer.ggml.token_type")) {
    for (const int64_t t : *types) d.token_types.push_back(static_cast<int32_t>(t));
  }
  if (auto scores = m.find_floats("tokenizer.ggml.scores")) d.scores = std::move(*scores);
  if (auto merges = m.find_strings("tokenizer.ggml.merges")) d.merges = std::move(*merges);
  d.bos = m.find_i64("tokenizer.ggml.bos_token_id");
  d.eos = m.find_i64("tokenizer.ggml.eos_token_id");
  d.unk = m.find_i64("tokenizer.ggml.unknown_token_id");
  d.pad = m.find_i64("tokenizer.ggml.padding_token_id");
  for (const char* key : {"eot", "eom", "fim_pad", "fim_rep", "fim_sep"}) {
    const std::string full = fmt::format("tokenizer.ggml.{}_token_id", key);
    if (const auto id = m.find_i64(full)) d.ends.emplace_back(full, *id);
  }
  for (const char* key : {"tokenizer.ggml.eog_token_ids", "tokenizer.ggml.eos_token_ids"}) {
    const auto ids = m.find_ints(key);
    for (const int64_t id : ids ? *ids : std::vector<int64_t>()) d.ends.emplace_back(key, id);
  }
  d.add_bos = m.find_bool("tokenizer.ggml.add_bos_token");
  d.add_eos = m.find_bool("tokenizer.ggml.add_eos_token");
  d.add_space_prefix = m.find_bool("tokenizer.ggml.add_space_prefix");
  d.chat_template = m.find_string("tokenizer.chat_template").value_or("");
  return d;
}

std::vector<GgufPair> gguf_tokenizer_pairs(const GgufTokenizerData& d) {
  std::vector<GgufPair> out;
  const auto text = [&](const char* key, const std::string& value) {
    if (!value.empty()) out.push_back(gguf_pair<std::string_view>(key, value));
  };
  const auto id = [&](const std::string& key, const std::optional<int64_t>& value) {
    if (value && *value >= 0) out.push_back(gguf_pair<uint32_t>(key, static_cast<uint32_t>(*value)));
  };
  const auto flag = [&](const char* key, const std::optional<bool>& value) {
    if (value) out.push_back(gguf_pair<bool>(key, *value));
  };
  text("tokenizer.ggml.model", d.model);
  text("tokenizer.ggml.pre", d.pre);
  out.push_back(gguf_strings("tokenizer.ggml.tokens", d.tokens));
  if (!d.scores.empty()) out.push_back(gguf_array<float>("tokenizer.ggml.scores", d.scores));
  out.push_back(gguf_array<int32_t>("tokenizer.ggml.token_type", d.token_types));
  if (!d.merges.empty()) out.push_back(gguf_strings("tokenizer.ggml.merges", d.merges));
  id("tokenizer.ggml.bos_token_id", d.bos);
  id("tokenizer.ggml.eos_token_id", d.eos);
  id("tokenizer.ggml.unknown_token_id", d.unk);
  id("tokenizer.ggml.padding_token_id", d.pad);
  for (const auto& [key, end] : d.ends) id(key, end);
  flag("tokenizer.ggml.add_bos_token", d.add_bos);
  flag("tokenizer.ggml.add_eos_token", d.add_eos);
  flag("tokenizer.ggml.add_space_prefix", d.add_space_prefix);
  text("tokenizer.chat_template", d.chat_template);
  return out;
}

}  // namespace metal_marlin

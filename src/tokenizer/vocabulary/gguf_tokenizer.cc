#include "tokenizer/vocabulary/gguf_tokenizer.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <unordered_set>
#include <utility>

#include "core/counted.h"
#include "formats/text.h"
#include "tokenizer/token_bounds.h"
#include "tokenizer/vocabulary/gguf_pre_tokenizers.h"

namespace metal_marlin {
namespace {

using Json = nlohmann::json;

Vocabulary vocabulary_of(const GgufTokenizerData& d, const std::string& file) {
  const bool spm = d.model == "llama";
  // Files from before these keys existed mean Llama's own ids.
  const auto id = [&](const std::optional<int64_t>& stated, int64_t usual) {
    return stated || !spm || static_cast<int64_t>(d.tokens.size()) <= usual ? stated : std::optional<int64_t>(usual);
  };
  Vocabulary v =
      checked_vocabulary(d.tokens, d.token_types, id(d.bos, 1), id(d.eos, 2), id(d.unk, 0), d.pad, file, kGgufNames);
  if (!d.chat_template.empty() && !is_utf8(d.chat_template))
    throw FormatError(fmt::format(
        "{}: tokenizer.chat_template: expected a text in UTF-8, found bytes that are none; {}", file, kGgufNames.cure));
  v.chat_template = d.chat_template;
  const auto ends = [&](bool add, const std::optional<int32_t>& token, const char* key) {
    if (add && !token)
      throw FormatError(fmt::format(
          "{}: tokenizer.ggml.{}_token_id: expected the id of a token, since tokenizer.ggml.add_{}_token is "
          "true, found none; {}",
          file, key, key, kGgufNames.cure));
    return add;
  };
  for (const auto& [key, end] : d.ends) {
    if (end == -1) continue;  // how files write "none"
    if (end < 0 || static_cast<uint64_t>(end) >= v.tokens.size())
      throw FormatError(fmt::format("{}: {}: expected the id of one of the {}, found {}; {}", file, key,
                                    counted(v.tokens.size(), "token"), end, kGgufNames.cure));
    v.ends.push_back(static_cast<int32_t>(end));
  }
  v.add_bos = ends(d.add_bos.value_or(false), v.bos, "bos");
  v.add_eos = ends(d.add_eos.value_or(false), v.eos, "eos");
  return v;
}

// "left right" with both parts and what they make among the tokens. Parts may begin with a space, not hold one.
MergeList checked_merges(const GgufTokenizerData& d, const Vocabulary& v, const std::string& file) {
  const std::unordered_set<std::string_view> known(v.tokens.begin(), v.tokens.end());
  MergeList merges;
  if (d.merges.size() > kMostTokens)
    throw FormatError(fmt::format("{}: tokenizer.ggml.merges: expected at most {}, found {}; {}", file,
                                  counted(kMostTokens, "merge"), d.merges.size(), kGgufNames.cure));
  std::string joined;
  for (size_t i = 0; i < d.merges.size(); ++i) {
    const std::string_view merge = d.merges[i];
    const size_t space = merge.find(' ', 1);
    if (space == std::string_view::npos || space + 1 == merge.size() || !is_utf8(merge))
      throw FormatError(
          fmt::format("{}: tokenizer.ggml.merges: expected two tokens with a space between them, found {} as merge {}; "
                      "{}",
                      file, shown(merge), i, kGgufNames.cure));
    const std::string_view left = merge.substr(0, space), right = merge.substr(space + 1);
    joined.assign(left).append(right);
    for (const std::string_view part : {left, right, std::string_view(joined)})
      if (!known.contains(part))
        throw FormatError(
            fmt::format("{}: tokenizer.ggml.merges: expected merges of tokens that are in tokenizer.ggml.tokens, found "
                        "merge {}, {}, of which {} is no token; {}",
                        file, i, shown(merge), shown(part), kGgufNames.cure));
    merges.emplace_back(left, right);
  }
  return merges;
}

std::string bpe_json(const GgufTokenizerData& d, Vocabulary& v, const std::string& file) {
  const std::string name = !d.pre.empty() ? d.pre : d.model == "gemma4" ? "gemma4" : "default";
  const GgufPreTokenizer& pre = gguf_pre_tokenizer(name, file);
  if (!d.add_bos && pre.adds_bos) v.add_bos = v.bos.has_value();
  Json json = tokenizer_frame(v);
  Json steps = Json::array();
  for (const auto pattern : pre.patterns)
    steps.push_back(
        {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}});
  if (pre.byte_level) {
    const Json byte_level = {
        {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", false}, {"use_regex", false}};
    steps.push_back(byte_level);
    json["normalizer"] = pre.nfc ? Json{{"type", "NFC"}} : Json();
    json["decoder"] = byte_level;
  } else {
    json["normalizer"] = {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "\xE2\x96\x81"}};
    json["decoder"] = {{"type", "Sequence"},
                       {"decoders",
                        {{{"type", "Replace"}, {"pattern", {{"String", "\xE2\x96\x81"}}}, {"content", " "}},
                         {{"type", "ByteFallback"}},
                         {{"type", "Fuse"}}}}};
  }
  json["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", steps}};
  const bool fallback = !pre.byte_level;
  json["model"] = {{"type", "BPE"},
                   {"dropout", nullptr},
                   {"unk_token", fallback && v.unk ? Json(v.tokens[static_cast<size_t>(*v.unk)]) : Json()},
                   {"continuing_subword_prefix", nullptr},
                   {"end_of_word_suffix", nullptr},
                   {"fuse_unk", fallback},
                   {"byte_fallback", fallback},
                   {"ignore_merges", pre.ignore_merges},
                   {"vocab", nullptr},
                   {"merges", nullptr}};
  return bpe_text(json, v, checked_merges(d, v, file));
}

[[noreturn]] void incomplete(const GgufTokenizerData& d, const std::string& key, const std::string& file) {
  throw FormatError(
      fmt::format("{}: tokenizer.ggml.{} is missing: expected it, since a tokenizer of the kind \"{}\" cannot do "
                  "without it, found none; {}",
                  file, key, d.model, kGgufNames.cure));
}

// Refuses what would otherwise be filled with an empty default. Gives the warnings for what has a known default.
std::vector<std::string> check_complete(const GgufTokenizerData& d, const std::string& file) {
  std::vector<std::string> warnings;
  if (d.tokens.empty()) incomplete(d, "tokens (a list with at least one token)", file);
  if (d.model == "llama") {
    if (d.scores.empty()) incomplete(d, "scores", file);
    if (d.token_types.empty())
      warnings.push_back(fmt::format(
          "{}: tokenizer.ggml.token_type is missing: only BOS, EOS, the unknown token and <0xXX> count as special",
          file));
    return warnings;
  }
  if (d.token_types.empty()) incomplete(d, "token_type", file);
  const auto long_text = [](std::string_view token) {
    return std::count_if(token.begin(), token.end(),
                         [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }) > 1;
  };
  // Only a vocabulary of single characters has nothing to merge.
  for (size_t i = 0; d.merges.empty() && i < std::min(d.tokens.size(), d.token_types.size()); ++i)
    if (d.token_types[i] == static_cast<int32_t>(TokenType::kNormal) && long_text(d.tokens[i]))
      incomplete(d, "merges", file);
  if (d.pre.empty() && d.model == "gpt2")
    warnings.push_back(fmt::format(
        "{}: tokenizer.ggml.pre is missing: \"default\" (the cuts of GPT-2) is assumed, and where the model was "
        "trained with others its results get worse; convert the model again with a current convert_hf_to_gguf.py of "
        "llama.cpp",
        file));
  return warnings;
}

}  // namespace

RebuiltTokenizer rebuild_gguf_tokenizer(const GgufTokenizerData& d, const std::string& file) {
  if (d.model.empty())
    throw FormatError(
        fmt::format("{}: tokenizer.ggml.model is missing or empty: expected the kind of the tokenizer, found none; {}",
                    file, kGgufNames.cure));
  const bool bpe = d.model == "gpt2" || d.model == "gemma4";
  if (!bpe && d.model != "llama")
    throw UnsupportedError(fmt::format(
        "{}: tokenizer.ggml.model: expected \"gpt2\" (byte-level BPE), \"llama\" (SentencePiece BPE) or \"gemma4\", "
        "found {}; take the model in safetensors, with its tokenizer.json",
        file, shown(d.model)));
  std::vector<std::string> warnings = check_complete(d, file);
  Vocabulary v = vocabulary_of(d, file);
  std::string text;
  if (bpe) {
    text = bpe_json(d, v, file);
  } else {
    if (!d.add_bos) v.add_bos = v.bos.has_value();
    SentencePieceRules rules;
    if (d.add_space_prefix.value_or(true)) {
      rules.prefix = SentencePieceRules::Prefix::kEachPart;
    } else {
      rules.prefix = SentencePieceRules::Prefix::kNone;
    }
    rules.scores = d.scores;
    text = sentencepiece_text(v, rules, file, kGgufNames);
  }
  return {std::move(text), tokenizer_config(v).dump(2), generation_config(v).dump(2), std::move(warnings)};
}

}  // namespace metal_marlin

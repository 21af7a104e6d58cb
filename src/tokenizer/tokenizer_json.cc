#include "tokenizer/tokenizer_json.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>
#include <unordered_map>
#include <unordered_set>

#include "core/counted.h"
#include "formats/foreign_file.h"
#include "formats/json/bounded_json.h"
#include "formats/text.h"
#include "tokenizer/token_bounds.h"

namespace metal_marlin {
namespace {

using Json = nlohmann::json;

constexpr std::string_view kSpace = "\xE2\x96\x81";  // U+2581

// Tokens that end a turn or a text under a name that files do not always give as their eos.
constexpr std::array<std::string_view, 10> kEnds = {"<|eot_id|>",      "<|im_end|>",     "<|end|>", "<end_of_turn>",
                                                    "<turn|>",         "<|eom_id|>",     "<EOT>",   "<|endoftext|>",
                                                    "<|end_of_text|>", "<|end_of_turn|>"};

std::optional<int32_t> checked_id(std::optional<int64_t> id, size_t tokens, const char* key, const std::string& file,
                                  const VocabularyNames& names) {
  if (!id || *id == -1) return std::nullopt;  // -1 is how both formats write "none"
  if (*id < 0 || static_cast<uint64_t>(*id) >= tokens)
    throw FormatError(fmt::format("{}: {}: expected the id of one of the {}, found {}; {}", file, key,
                                  counted(tokens, "token"), *id, names.cure));
  return static_cast<int32_t>(*id);
}

// Phi-3's tokenizer swallows the white space behind its turn markers. Nothing else in the files says so.
bool has_turns_of_phi3(const Vocabulary& v) {
  return std::find(v.tokens.begin(), v.tokens.end(), "<|placeholder1|>") != v.tokens.end();
}
bool is_turn_of_phi3(const std::string& token) {
  return token != "<unk>" && token != "<s>" && token != "<|endoftext|>";
}

Json template_processor(const Vocabulary& v) {
  const auto special = [](const std::string& token, int type) {
    return Json{{"SpecialToken", {{"id", token}, {"type_id", type}}}};
  };
  Json single = Json::array(), pair = Json::array(), used = Json::object();
  const auto ends = [&](bool add, std::optional<int32_t> id, Json& list, int type) {
    if (!add || !id) return;
    const std::string& token = v.tokens[static_cast<size_t>(*id)];
    list.push_back(special(token, type));
    used[token] = {{"id", token}, {"ids", {*id}}, {"tokens", {token}}};
  };
  const auto sequence = [&](const char* name, int type, Json& list) {
    ends(v.add_bos, v.bos, list, type);
    list.push_back({{"Sequence", {{"id", name}, {"type_id", type}}}});
    ends(v.add_eos, v.eos, list, type);
  };
  sequence("A", 0, single);
  sequence("A", 0, pair);
  sequence("B", 1, pair);
  if (used.empty()) return nullptr;
  return {{"type", "TemplateProcessing"}, {"single", single}, {"pair", pair}, {"special_tokens", used}};
}

struct Merge {
  std::string_view left, right;
  float score;
  size_t left_characters, right_characters;
};

size_t characters(std::string_view s) {
  return static_cast<size_t>(
      std::count_if(s.begin(), s.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

// Every way to join two pieces to a third, best first. Ties as transformers breaks them: of two merges with one score,
// the one with the longer left part, then the longer right part, then the earlier in the vocabulary.
std::vector<Merge> merges_by_score(const Vocabulary& v, const std::vector<float>& scores, const std::string& file,
                                   const VocabularyNames& names) {
  // A piece of n bytes costs up to n^2: 1e9 is half a second, and 25 times what the largest vocabularies take.
  constexpr uint64_t kMostWork = 1'000'000'000;
  // Gemma's 256,000 pieces make 580,000 merges of 5 MB: the merges of a chain a, aa, aaa ... grow with its cube.
  constexpr size_t kMostMerges = 1'200'000;
  constexpr uint64_t kMostMergeBytes = uint64_t{24} << 20;
  uint64_t bytes = 0;
  std::unordered_map<std::string_view, int32_t> ids;
  const auto joins = [&](size_t i) { return v.types[i] == TokenType::kNormal || v.types[i] == TokenType::kUnused; };
  uint64_t work = 0;
  ids.reserve(v.tokens.size());
  for (size_t i = 0; i < v.tokens.size(); ++i) {
    if (!joins(i)) continue;
    ids.emplace(v.tokens[i], static_cast<int32_t>(i));
    const uint64_t n = v.tokens[i].size();
    work = n > 100'000 ? kMostWork + 1 : work + n * n;
    if (work > kMostWork)
      throw FormatError(fmt::format(
          "{}: {}: expected tokens of a few bytes, found {} in token {}: pieces this long make no vocabulary; {}", file,
          names.tokens, counted(n, "byte"), i, names.cure));
  }
  std::vector<Merge> merges;
  std::vector<std::pair<std::pair<int32_t, int32_t>, size_t>> local;
  for (size_t i = 0; i < v.tokens.size(); ++i) {
    if (!joins(i)) continue;
    const std::string_view piece = v.tokens[i];
    local.clear();
    for (size_t cut = 1; cut < piece.size(); ++cut) {
      if ((static_cast<unsigned char>(piece[cut]) & 0xC0) == 0x80) continue;  // inside a character
      const auto left = ids.find(piece.substr(0, cut));
      if (left == ids.end()) continue;
      const auto right = ids.find(piece.substr(cut));
      if (right != ids.end()) local.push_back({{left->second, right->second}, cut});
    }
    std::sort(local.begin(), local.end());
    bytes += local.size() * piece.size();
    if (bytes > kMostMergeBytes || merges.size() + local.size() > kMostMerges)
      throw FormatError(fmt::format(
          "{}: {}: the {} of the first {} take {}, more than the limit of {} or of {}: the pieces are joined in "
          "more ways than those of any language; {}",
          file, names.tokens, counted(merges.size() + local.size(), "merge"), counted(i + 1, "token"),
          counted(bytes, "byte"), kMostMerges, counted(kMostMergeBytes, "byte"), names.cure));
    for (const auto& [pair, cut] : local)
      merges.push_back({piece.substr(0, cut), piece.substr(cut), scores[i], characters(piece.substr(0, cut)),
                        characters(piece.substr(cut))});
  }
  std::stable_sort(merges.begin(), merges.end(), [&](const Merge& a, const Merge& b) {
    if (a.score != b.score) return a.score > b.score;
    if (a.left_characters != b.left_characters) return a.left_characters > b.left_characters;
    return a.right_characters > b.right_characters;
  });
  return merges;
}

// Of a vocabulary in which no two pieces join to a third.
void refuse_long_pieces(const Vocabulary& v, const std::string& file, const VocabularyNames& names) {
  for (size_t i = 0; i < v.tokens.size(); ++i) {
    if (v.types[i] != TokenType::kNormal || characters(v.tokens[i]) < 2) continue;
    throw FormatError(
        fmt::format("{}: {}: expected tokens of which two join to a third, found none, so that token {} {} and all "
                    "others of several "
                    "characters would never be used: the vocabulary is not the model's; {}",
                    file, names.tokens, i, shown(v.tokens[i]), names.cure));
  }
}

// As Json::dump() writes a text in UTF-8, of which most need no escape.
void append_quoted(std::string_view text, std::string& out) {
  const bool plain = std::none_of(text.begin(), text.end(),
                                  [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == '"' || c == '\\'; });
  if (plain) {
    out.append("\"").append(text).append("\"");
  } else {
    out += Json(text).dump();
  }
}

Json sentencepiece_normalizer(const SentencePieceRules& rules) {
  Json steps = Json::array();
  if (!rules.precompiled_charsmap.empty())
    steps.push_back({{"type", "Precompiled"}, {"precompiled_charsmap", rules.precompiled_charsmap}});
  if (rules.remove_extra_spaces) {
    // Not the normalizer Strip: SentencePiece strips spaces, and leaves line ends.
    for (const auto& [pattern, content] : {std::pair("\\A +| +\\z", ""), std::pair(" {2,}", " ")})
      steps.push_back({{"type", "Replace"}, {"pattern", {{"Regex", pattern}}}, {"content", content}});
  }
  using Prefix = SentencePieceRules::Prefix;
  if (rules.prefix == Prefix::kEachPart) steps.push_back({{"type", "Prepend"}, {"prepend", kSpace}});
  if (rules.prefix == Prefix::kEachPart || rules.prefix == Prefix::kNone)
    steps.push_back({{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", kSpace}});
  if (steps.empty()) return nullptr;
  return {{"type", "Sequence"}, {"normalizers", steps}};
}

}  // namespace

Json parse_bounded_object(std::string_view text, const std::string& file) {
  if (text.empty()) return Json::object();
  Json json = parse_json(text, file, {.depth = 100});
  if (const std::string page = error_page_text(json); !page.empty())
    throw FormatError(fmt::format("{}: {}", file, page));
  if (!json.is_object())
    throw FormatError(
        fmt::format("{}: expected an object ({{...}}), found {}; download the file again", file, json.type_name()));
  return json;
}

std::string with_spaces(std::string_view token) {
  std::string out;
  for (size_t at = 0; at < token.size();) {
    const bool space = token.substr(at).starts_with(kSpace);
    out += space ? ' ' : token[at];
    at += space ? kSpace.size() : 1;
  }
  return out;
}

bool is_byte_token(std::string_view token) noexcept {
  const auto hex = [](char c) { return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'F'); };
  return token.size() == 6 && token.starts_with("<0x") && token.ends_with(">") && hex(token[3]) && hex(token[4]);
}

bool ends_by_name(std::string_view token) noexcept {
  return std::find(kEnds.begin(), kEnds.end(), token) != kEnds.end();
}

bool is_utf8(std::string_view text) noexcept {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  for (size_t i = 0; i < text.size();) {
    const unsigned char first = byte(i);
    const size_t n = first < 0x80                    ? 1
                     : first >= 0xC2 && first < 0xE0 ? 2
                     : (first & 0xF0) == 0xE0        ? 3
                     : first >= 0xF0 && first < 0xF5 ? 4
                                                     : 0;
    if (n == 0 || text.size() - i < n) return false;
    for (size_t k = 1; k < n; ++k)
      if ((byte(i + k) & 0xC0) != 0x80) return false;
    // Overlong forms, surrogates, and what lies beyond U+10FFFF show in the second byte.
    if ((first == 0xE0 && byte(i + 1) < 0xA0) || (first == 0xED && byte(i + 1) >= 0xA0) ||
        (first == 0xF0 && byte(i + 1) < 0x90) || (first == 0xF4 && byte(i + 1) >= 0x90))
      return false;
    i += n;
  }
  return true;
}

Vocabulary checked_vocabulary(std::vector<std::string> tokens, const std::vector<int32_t>& types,
                              std::optional<int64_t> bos, std::optional<int64_t> eos, std::optional<int64_t> unk,
                              std::optional<int64_t> pad, const std::string& file, const VocabularyNames& names) {
  const auto fail = [&](const char* key, const std::string& expected, const std::string& found) {
    throw FormatError(fmt::format("{}: {}: expected {}, found {}; {}", file, key, expected, found, names.cure));
  };
  if (tokens.empty()) fail(names.tokens, "at least one token", "none");
  if (tokens.size() > kMostTokens)
    fail(names.tokens, fmt::format("at most {}", counted(kMostTokens, "token")), fmt::format("{}", tokens.size()));
  if (!types.empty() && types.size() != tokens.size())
    fail(names.types, fmt::format("one type for each of the {}", counted(tokens.size(), "token")),
         counted(types.size(), "type"));
  Vocabulary v;
  v.tokens = std::move(tokens);
  v.bos = checked_id(bos, v.tokens.size(), names.bos, file, names);
  v.eos = checked_id(eos, v.tokens.size(), names.eos, file, names);
  v.unk = checked_id(unk, v.tokens.size(), names.unk, file, names);
  v.pad = checked_id(pad, v.tokens.size(), names.pad, file, names);
  v.types.reserve(v.tokens.size());
  std::unordered_set<std::string_view> seen;
  seen.reserve(v.tokens.size());
  for (size_t i = 0; i < v.tokens.size(); ++i) {
    std::string& token = v.tokens[i];
    check_token(token, file, names.tokens);
    if (!is_utf8(token)) fail(names.tokens, "texts in UTF-8", fmt::format("{} as token {}", shown(token), i));
    if (token.empty()) token = fmt::format("[EMPTY_{}]", i);
    if (!seen.insert(token).second)
      fail(names.tokens, "each token once", fmt::format("{} twice, the second time as token {}", shown(token), i));
    if (types.empty()) {
      const auto id = static_cast<int32_t>(i);
      v.types.push_back(v.unk == id                  ? TokenType::kUnknown
                        : v.bos == id || v.eos == id ? TokenType::kControl
                        : is_byte_token(token)       ? TokenType::kByte
                                                     : TokenType::kNormal);
    } else {
      if (types[i] < 1 || types[i] > 6)
        fail(names.types, "types from 1 to 6", fmt::format("type {} for token {}", types[i], i));
      v.types.push_back(static_cast<TokenType>(types[i]));
    }
  }
  const auto added = static_cast<size_t>(std::count_if(v.types.begin(), v.types.end(), [](TokenType type) {
    return type == TokenType::kControl || type == TokenType::kUnknown || type == TokenType::kUserDefined;
  }));
  if (added > kMostAddedTokens)
    fail(names.types, fmt::format("at most {} that are special or taken whole", counted(kMostAddedTokens, "token")),
         fmt::format("{}", added));
  return v;
}

Json tokenizer_frame(const Vocabulary& v) {
  Json added = Json::array();
  const bool phi3 = has_turns_of_phi3(v);
  for (size_t i = 0; i < v.tokens.size(); ++i) {
    const TokenType type = v.types[i];
    const bool special = type == TokenType::kControl || type == TokenType::kUnknown;
    if (!special && type != TokenType::kUserDefined) continue;
    added.push_back({{"id", i},
                     {"content", v.tokens[i]},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", special && phi3 && is_turn_of_phi3(v.tokens[i])},
                     {"normalized", false},
                     {"special", special}});
  }
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", added},
          {"post_processor", template_processor(v)}};
}

std::string bpe_text(const Json& frame, const Vocabulary& v, const MergeList& merges) {
  std::string text = frame.dump();
  const auto put = [&text](std::string_view key, const std::string& value) {
    // Inside a string the quotes would stand behind backslashes, and no other object of the frame has such a member.
    const std::string empty = fmt::format("\"{}\":null", key);
    const size_t at = text.find(empty);
    text.replace(at + empty.size() - 4, 4, value);
  };
  std::string list = "[";
  for (const auto& [left, right] : merges) {
    list += list.size() > 1 ? ",[" : "[";
    append_quoted(left, list);
    list += ',';
    append_quoted(right, list);
    list += ']';
  }
  put("merges", list += "]");
  list = "{";
  std::vector<size_t> order(v.tokens.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) { return v.tokens[a] < v.tokens[b]; });
  for (const size_t i : order) {
    if (list.size() > 1) list += ',';
    append_quoted(v.tokens[i], list);
    list += ':' + std::to_string(i);
  }
  put("vocab", list += "}");
  return text;
}

std::string sentencepiece_text(Vocabulary& v, const SentencePieceRules& rules, const std::string& file,
                               const VocabularyNames& names) {
  if (rules.scores.size() != v.tokens.size())
    throw FormatError(fmt::format("{}: {}: expected one score for each of the {}, found {}; {}", file, names.scores,
                                  counted(v.tokens.size(), "token"), counted(rules.scores.size(), "score"),
                                  names.cure));
  for (size_t i = 0; i < rules.scores.size(); ++i)
    if (!std::isfinite(rules.scores[i]))
      throw FormatError(fmt::format("{}: {}: expected finite numbers, found {} for token {}; {}", file, names.scores,
                                    rules.scores[i], i, names.cure));
  std::unordered_set<std::string> taken(v.tokens.begin(), v.tokens.end());
  for (size_t i = 0; i < v.tokens.size(); ++i) {
    if (v.types[i] != TokenType::kUserDefined) continue;
    std::string text = with_spaces(v.tokens[i]);
    if (text != v.tokens[i] && taken.insert(text).second) v.tokens[i] = std::move(text);
  }

  Json json = tokenizer_frame(v);
  json["normalizer"] = sentencepiece_normalizer(rules);
  json["pre_tokenizer"] = nullptr;
  using Prefix = SentencePieceRules::Prefix;
  if (rules.prefix == Prefix::kFirst || rules.prefix == Prefix::kEachPartOnce)
    json["pre_tokenizer"] = {{"type", "Metaspace"},
                             {"replacement", kSpace},
                             {"prepend_scheme", rules.prefix == Prefix::kFirst ? "first" : "always"},
                             {"split", false}};
  Json decoders = Json::array({{{"type", "Replace"}, {"pattern", {{"String", kSpace}}}, {"content", " "}},
                               {{"type", "ByteFallback"}},
                               {{"type", "Fuse"}}});
  if (rules.prefix != Prefix::kNone)
    decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  json["decoder"] = {{"type", "Sequence"}, {"decoders", decoders}};

  if (rules.unigram) {
    Json pieces = Json::array();
    for (size_t i = 0; i < v.tokens.size(); ++i) pieces.push_back({v.tokens[i], static_cast<double>(rules.scores[i])});
    json["model"] = {{"type", "Unigram"},
                     {"unk_id", v.unk ? Json(*v.unk) : Json()},
                     {"vocab", pieces},
                     {"byte_fallback", rules.byte_fallback}};
    return json.dump();
  }
  MergeList merges;
  for (const auto& m : merges_by_score(v, rules.scores, file, names)) merges.emplace_back(m.left, m.right);
  if (merges.empty()) refuse_long_pieces(v, file, names);
  json["model"] = {{"type", "BPE"},
                   {"dropout", nullptr},
                   {"unk_token", v.unk ? Json(v.tokens[static_cast<size_t>(*v.unk)]) : Json()},
                   {"continuing_subword_prefix", nullptr},
                   {"end_of_word_suffix", nullptr},
                   {"fuse_unk", true},
                   {"byte_fallback", rules.byte_fallback},
                   {"ignore_merges", false},
                   {"vocab", nullptr},
                   {"merges", nullptr}};
  return bpe_text(json, v, merges);
}

Json tokenizer_config(const Vocabulary& v) {
  Json config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                 {"clean_up_tokenization_spaces", false},
                 {"add_bos_token", v.add_bos && v.bos.has_value()},
                 {"add_eos_token", v.add_eos && v.eos.has_value()}};
  const std::pair<const char*, std::optional<int32_t>> named[] = {
      {"bos_token", v.bos}, {"eos_token", v.eos}, {"unk_token", v.unk}, {"pad_token", v.pad}};
  for (const auto& [key, id] : named)
    if (id) config[key] = v.tokens[static_cast<size_t>(*id)];
  if (!v.chat_template.empty()) config["chat_template"] = v.chat_template;
  return config;
}

Json generation_config(const Vocabulary& v) {
  Json ends = Json::array();
  if (v.eos) ends.push_back(*v.eos);
  for (size_t i = 0; i < v.tokens.size(); ++i) {
    if (v.types[i] != TokenType::kControl && v.types[i] != TokenType::kUserDefined) continue;
    if (v.eos == static_cast<int32_t>(i)) continue;
    if (ends_by_name(v.tokens[i])) ends.push_back(i);
  }
  std::unordered_set<int64_t> listed;
  for (const Json& end : ends) listed.insert(end.get<int64_t>());
  for (const int32_t end : v.ends)
    if (listed.insert(end).second) ends.push_back(end);
  Json config = Json::object();
  if (v.bos) config["bos_token_id"] = *v.bos;
  if (v.pad) config["pad_token_id"] = *v.pad;
  if (ends.size() == 1) config["eos_token_id"] = ends[0];
  if (ends.size() > 1) config["eos_token_id"] = ends;
  return config;
}

}  // namespace metal_marlin

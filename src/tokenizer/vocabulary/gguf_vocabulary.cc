#include "tokenizer/vocabulary/gguf_vocabulary.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <optional>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "core/counted.h"
#include "formats/text.h"
#include "tokenizer/token_bounds.h"
#include "tokenizer/tokenizer_json.h"
#include "tokenizer/vocabulary/gguf_pre_tokenizers.h"
#include "tokenizer/vocabulary/merge_scores.h"

namespace metal_marlin {
namespace {

using Json = nlohmann::json;

constexpr std::string_view kSpace = "\xE2\x96\x81";  // U+2581
constexpr std::array<const char*, 2> kEndKeys = {"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"};

std::string text_of(const Json& object, const char* key) {
  const auto it = object.find(key);
  return it != object.end() && it->is_string() ? it->get<std::string>() : std::string();
}

// The steps of a normalizer, pre-tokenizer or decoder, one after the other.
void flatten(const Json& step, const char* list, std::vector<Json>& out) {
  if (!step.is_object()) return;
  const auto inner = step.find(list);
  if (text_of(step, "type") != "Sequence" || inner == step.end() || !inner->is_array()) {
    out.push_back(step);
    return;
  }
  for (const Json& s : *inner) flatten(s, list, out);
}

std::vector<Json> steps_of(const Json& tokenizer, const char* key, const char* list) {
  std::vector<Json> out;
  if (const auto it = tokenizer.find(key); it != tokenizer.end()) flatten(*it, list, out);
  return out;
}

// Empty where it is no object.
const Json& object_in(const Json& object, const char* key) {
  static const Json kNone = Json::object();
  const auto it = object.find(key);
  return it != object.end() && it->is_object() ? *it : kNone;
}

bool is_true(const Json& object, const char* key) {
  const auto it = object.find(key);
  return it != object.end() && it->is_boolean() && it->get<bool>();
}

std::string type_of(const Json& step) {
  return text_of(step, "type");
}

std::string pattern_of(const Json& step, const char* kind) {
  const auto it = step.find("pattern");
  return it != step.end() && it->is_object() ? text_of(*it, kind) : std::string();
}

class Vocabularies {
 public:
  Vocabularies(const TokenizerFiles& files, const Tokenizer& tokenizer, int64_t rows, const std::string& folder)
      : files_(files),
        tokenizer_(tokenizer),
        rows_(rows),
        place_(folder + "/" + files.origin),
        json_(parse_bounded_object(files.tokenizer_json, place_)),
        model_(object_in(json_, "model")) {
    if (type_of(model_) != "BPE" && !(type_of(model_).empty() && model_.contains("merges")))
      refuse("the model", "\"BPE\"", shown(type_of(model_)));
    if (rows_ > static_cast<int64_t>(kMostTokens))
      refuse("vocab_size", counted(kMostTokens, "token"), fmt::format("{}", rows_));
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"})
      if (!text_of(model_, key).empty()) refuse(key, "none", shown(text_of(model_, key)));
    read_added();
  }

  GgufVocabulary make() {
    GgufTokenizerData& d = out_.data;
    read_merges();
    const std::vector<Json> cuts = steps_of(json_, "pre_tokenizer", "pretokenizers");
    const bool byte_level =
        std::any_of(cuts.begin(), cuts.end(), [](const Json& s) { return type_of(s) == "ByteLevel"; });
    d.model = byte_level ? "gpt2" : "llama";
    d.pre = byte_level ? pre_tokenizer(cuts) : "default";
    if (!byte_level) d.add_space_prefix = begins_with_space(cuts);
    list_tokens(byte_level);
    if (!byte_level) {
      d.scores = merge_scores(d.tokens, d.token_types, merges_, place_);
      d.merges.clear();
    } else {
      for (const auto& [left, right] : merges_) d.merges.push_back(fmt::format("{} {}", left, right));
    }
    name_special();
    d.chat_template = tokenizer_.chat_template();
    return std::move(out_);
  }

 private:
  struct Added {
    bool special = false;
    bool strips = false;  // lstrip, rstrip, single_word
  };

  [[noreturn]] void refuse(const std::string& what, const std::string& expected, const std::string& found) const {
    throw UnsupportedError(
        fmt::format("{}: {}: a GGUF file can hold {}, found {}: this tokenizer cannot be written to GGUF; write the "
                    "model in another format",
                    place_, what, expected, found));
  }

  // The tokens that are looked for in the text itself: those of tokenizer.json, and of the files beside it as
  // Tokenizer::from_files adds them.
  void read_added() {
    const auto list = json_.find("added_tokens");
    if (list != json_.end() && list->is_array()) {
      for (const Json& token : *list) {
        if (!token.is_object()) continue;
        added_[text_of(token, "content")] = {is_true(token, "special"), is_true(token, "lstrip") ||
                                                                            is_true(token, "rstrip") ||
                                                                            is_true(token, "single_word")};
      }
    }
    const auto vocab = model_.find("vocab");
    const NamedTokens named = named_in(files_, place_);
    std::unordered_set<std::string> seen;
    for (const AddedToken& token : named.all) {
      if (token.content.empty() || !tokenizer_.token_to_id(token.content) || !seen.insert(token.content).second)
        continue;
      const bool there = added_.contains(token.content) || (vocab != model_.end() && vocab->contains(token.content));
      if (there && !token.with_attributes) continue;
      added_[token.content] = {token.special || (!token.with_attributes && named.special.contains(token.content)),
                               token.lstrip || token.rstrip || token.single_word};
    }
  }

  void read_merges() {
    const auto list = model_.find("merges");
    if (list == model_.end() || !list->is_array()) return;
    merges_.reserve(list->size());
    for (const Json& merge : *list) {
      if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
        merges_.emplace_back(merge[0].get_ref<const std::string&>(), merge[1].get_ref<const std::string&>());
        continue;
      }
      const std::string text = merge.is_string() ? merge.get<std::string>() : std::string();
      const size_t space = text.find(' ', 1);
      if (space == std::string::npos)
        throw FormatError(fmt::format("{}: merges: expected pairs of tokens, found {}; download the file again", place_,
                                      escaped(merge.dump(-1, ' ', false, Json::error_handler_t::replace), 80)));
      merges_.emplace_back(text.substr(0, space), text.substr(space + 1));
    }
  }

  // The name of the row whose patterns cut as these steps do.
  std::string pre_tokenizer(const std::vector<Json>& cuts) const {
    constexpr std::string_view kGpt2 = "gpt-2";
    std::vector<std::string> patterns;
    for (const Json& step : cuts) {
      const std::string type = type_of(step);
      const std::string behavior = text_of(step, "behavior");
      if (type == "Split" && !pattern_of(step, "Regex").empty() &&
          ((behavior == "Isolated" && !is_true(step, "invert")) ||
           (behavior == "Removed" && is_true(step, "invert")))) {
        patterns.push_back(pattern_of(step, "Regex"));
      } else if (type == "Digits") {
        patterns.emplace_back(is_true(step, "individual_digits") ? R"(\p{N})" : R"(\p{N}+)");
      } else if (type == "ByteLevel" && !is_true(step, "add_prefix_space")) {
        if (!step.contains("use_regex") || is_true(step, "use_regex"))
          patterns.emplace_back(gguf_pre_tokenizer(kGpt2, place_).patterns.front());
      } else {
        refuse("pre_tokenizer", "the steps Split, Digits and ByteLevel without a space in front",
               escaped(step.dump(-1, ' ', false, Json::error_handler_t::replace), 200));
      }
    }
    bool nfc = false;
    for (const Json& step : steps_of(json_, "normalizer", "normalizers")) {
      if (type_of(step) != "NFC") refuse("normalizer", "NFC or none", shown(type_of(step)));
      nfc = true;
    }
    const bool ignore_merges = is_true(model_, "ignore_merges");
    // Names that many readers know stand first among those that mean the same.
    std::vector<std::string_view> names = gguf_pre_tokenizer_names();
    names.insert(names.begin(), {"gpt-2", "llama-bpe", "qwen2"});
    for (const std::string_view name : names) {
      const GgufPreTokenizer& row = gguf_pre_tokenizer(name, place_);
      if (row.byte_level && row.nfc == nfc && row.ignore_merges == ignore_merges &&
          std::equal(row.patterns.begin(), row.patterns.end(), patterns.begin(), patterns.end()))
        return std::string(name);
    }
    refuse("pre_tokenizer", "one of the ways to cut text that tokenizer.ggml.pre names",
           fmt::format("{}{}{}", escaped(fmt::format("{}", fmt::join(patterns, "  ")), 400), nfc ? " after NFC" : "",
                       ignore_merges ? ", ignoring merges" : ""));
  }

  // Of SentencePiece: whether a text gets a space in front. Whatever else is done to texts, the check finds.
  bool begins_with_space(const std::vector<Json>& cuts) const {
    bool prefix = false;
    for (const Json& step : steps_of(json_, "normalizer", "normalizers"))
      prefix = prefix || (type_of(step) == "Prepend" && text_of(step, "prepend") == kSpace);
    for (const Json& step : cuts) {
      const std::string type = type_of(step);
      if (type == "Metaspace") {
        const std::string scheme = text_of(step, "prepend_scheme");
        prefix = prefix || (scheme.empty() ? !step.contains("add_prefix_space") || is_true(step, "add_prefix_space")
                                           : scheme != "never");
      } else if (type != "Split" || pattern_of(step, "String") != " ") {
        refuse("pre_tokenizer", "those of byte-level BPE and of SentencePiece", shown(type));
      }
    }
    return prefix;
  }

  static bool looks_special(const std::string& token) {
    const auto between = [&](std::string_view begin, std::string_view end) {
      return token.starts_with(begin) && token.ends_with(end) && token.size() >= begin.size() + end.size();
    };
    // convert_hf_to_gguf.py: does_token_look_special
    return token == "<pad>" || token == "<mask>" || token == "<2mass>" || token == "[@BOS@]" || between("<|", "|>") ||
           between("<\xEF\xBD\x9C", "\xEF\xBD\x9C>") || between("<unused", ">");
  }

  void list_tokens(bool byte_level) {
    GgufTokenizerData& d = out_.data;
    std::unordered_map<int64_t, std::string> texts;
    const auto place = [&](const std::string& token) {
      if (const auto id = tokenizer_.token_to_id(token)) texts.emplace(*id, token);
    };
    for (const auto& [token, attributes] : added_) place(token);
    if (const auto vocab = model_.find("vocab"); vocab != model_.end() && vocab->is_object())
      for (const auto& [token, id] : vocab->items()) place(token);
    const std::string unknown = text_of(model_, "unk_token");
    const bool fallback = is_true(model_, "byte_fallback");
    std::unordered_set<std::string> taken;
    size_t strips = 0;
    for (int64_t id = 0; id < rows_; ++id) {
      TokenType type = TokenType::kNormal;
      std::string token = fmt::format("[PAD{}]", id);
      if (const auto text = texts.find(id); text == texts.end()) {
        type = TokenType::kUnused;
      } else {
        token = text->second;
        const auto attributes = added_.find(token);
        if (!byte_level && !unknown.empty() && token == unknown) {
          type = TokenType::kUnknown;
        } else if (attributes != added_.end()) {
          type = attributes->second.special || looks_special(token) ? TokenType::kControl : TokenType::kUserDefined;
          strips += attributes->second.strips ? 1 : 0;
        } else if (!byte_level && fallback && is_byte_token(token)) {
          type = TokenType::kByte;
        }
        // User-defined tokens are looked for in the text itself.
        if (type == TokenType::kUserDefined) token = with_spaces(token);
      }
      while (!taken.insert(token).second) token += type == TokenType::kUnused ? "_" : std::string(kSpace);
      d.tokens.push_back(std::move(token));
      d.token_types.push_back(static_cast<int32_t>(type));
    }
    const bool of_phi3 = taken.contains("<|placeholder1|>");  // readers know the white space behind its markers
    if (strips > 0 && !of_phi3)
      out_.warnings.push_back(
          fmt::format("{}: {} take the white space around them (lstrip, rstrip) or stand alone (single_word), which a "
                      "GGUF file cannot say",
                      place_, counted(strips, "added token")));
  }

  void name_special() {
    GgufTokenizerData& d = out_.data;
    const auto id = [&](const std::string& token) -> std::optional<int64_t> {
      const auto found = token.empty() ? std::nullopt : tokenizer_.token_to_id(token);
      return found && *found < rows_ ? std::optional<int64_t>(*found) : std::nullopt;
    };
    d.bos = id(tokenizer_.bos_token());
    d.eos = id(tokenizer_.eos_token());
    d.unk = id(tokenizer_.unk_token());
    if (!d.unk) d.unk = id(text_of(model_, "unk_token"));
    d.pad = id(tokenizer_.pad_token());
    const std::vector<int32_t> around = tokenizer_.encode("", true);
    d.add_bos = tokenizer_.adds_bos();
    d.add_eos = around.size() > (*d.add_bos ? 1U : 0U) && d.eos && around.back() == *d.eos;
    const size_t known = (*d.add_bos ? 1U : 0U) + (*d.add_eos ? 1U : 0U);
    if (around.size() != known)
      refuse("post_processor", "one that adds BOS and EOS", counted(around.size(), "token") + " around each text");
    // Readers know most ends of a turn by their names.
    for (const int32_t end : tokenizer_.eos_ids()) {
      if (end == d.eos || end >= rows_ || ends_by_name(d.tokens[static_cast<size_t>(end)])) continue;
      if (d.ends.size() == kEndKeys.size()) {
        out_.warnings.push_back(fmt::format("{}: token {} ends a generation, which the GGUF file does not say", place_,
                                            shown(d.tokens[static_cast<size_t>(end)])));
        continue;
      }
      d.ends.emplace_back(kEndKeys[d.ends.size()], end);
    }
  }

  const TokenizerFiles& files_;
  const Tokenizer& tokenizer_;
  const int64_t rows_;
  const std::string place_;
  const Json json_;
  const Json& model_;  // in json_
  std::unordered_map<std::string, Added> added_;
  std::vector<std::pair<std::string, std::string>> merges_;
  GgufVocabulary out_;
};

// The ids of both for the texts above; [PADn] has none of them.
void check_same_ids(const GgufTokenizerData& data, const Tokenizer& tokenizer, int64_t rows,
                    const std::string& folder) {
  const RebuiltTokenizer rebuilt = rebuild_gguf_tokenizer(data, folder);
  TokenizerFiles files;
  files.tokenizer_json = rebuilt.tokenizer_json;
  files.tokenizer_config_json = rebuilt.tokenizer_config_json;
  files.origin = "tokenizer.ggml.tokens";
  const Tokenizer again = Tokenizer::from_files(files, folder, rows);
  for (const std::string_view text : texts_hard_to_cut()) {
    const auto expected = tokenizer.encode(text, true);
    const auto found = again.encode(text, true);
    if (expected == found) continue;
    throw UnsupportedError(fmt::format(
        "{}: its tokenizer cannot be written to GGUF: {} is {} here, but would be {} there; write the model in another "
        "format",
        folder, shown(text), fmt::join(expected, " "), fmt::join(found, " ")));
  }
}

}  // namespace

std::vector<std::string_view> texts_hard_to_cut() {
  return {"Hello, world! It's 2024, isn't it?",
          "  two  spaces   three    four\ttab\n\nlines\r\n   \n end ",
          "1 12 123 1234 12345 1234567 3.14 0x1F",
          "def f(x):\n    return {\"a\": [x**2, -1]}  # c++ != c\n",
          "I'VE they'll WE'RE d'accord O'Neil's",
          "\xE6\x88\x91\xE6\x83\xB3\xE5\x9C\xA8 apple \xE5\xB7\xA5\xE4\xBD\x9C 1314151\xE5\xA4\xA9\xEF\xBD\x9E",
          "\xD0\x9D\xD0\xB5\xD1\x89\xD0\xBE \xD0\xBD\xD0\xB0 "
          "\xD0\x91\xD1\x8A\xD0\xBB\xD0\xB3\xD0\xB0\xD1\x80\xD1\x81\xD0\xBA\xD0\xB8",
          "\xF0\x9F\x9A\x80 \xF0\x9F\x98\xB6\xE2\x80\x8D\xF0\x9F\x8C\xAB\xEF\xB8\x8F na\xC3\xAFve caf\xC3\xA9 \xC3\x9F "
          "\xC4\xB0",
          "................ ------======= '''''' ```` ?!?!"};
}

GgufVocabulary gguf_vocabulary(const TokenizerFiles& files, const Tokenizer& tokenizer, int64_t model_vocab,
                               const std::string& folder) {
  GgufVocabulary out = Vocabularies(files, tokenizer, model_vocab, folder).make();
  check_same_ids(out.data, tokenizer, model_vocab, folder);
  return out;
}

}  // namespace metal_marlin

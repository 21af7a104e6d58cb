// Writes tokenizer.json and its companions from a vocabulary: what GGUF files and SentencePiece models have in common.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace metal_marlin {

struct RebuiltTokenizer {
  std::string tokenizer_json;
  std::string tokenizer_config_json;
  std::string generation_config_json;  // bos_token_id, and every token that ends a generation
  std::vector<std::string> warnings;   // what was assumed because the file does not say it; each opens with the file
};

// As in sentencepiece_model.proto and in GGUF files.
enum class TokenType : int32_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

struct Vocabulary {
  std::vector<std::string> tokens;
  std::vector<TokenType> types;  // one per token
  std::optional<int32_t> bos, eos, unk, pad;
  std::vector<int32_t> ends;  // ids that end a generation beside eos
  bool add_bos = false;
  bool add_eos = false;
  std::string chat_template;
};

struct SentencePieceRules {
  bool unigram = false;  // else BPE
  enum class Prefix : uint8_t {
    kNone,
    kEachPart,      // a space before the text and after special tokens, also where one stands there: llama.cpp
    kEachPartOnce,  // the same, but not where one stands there: transformers with legacy: true
    kFirst          // before the text alone, and not where one stands there: transformers
  };
  Prefix prefix = Prefix::kFirst;
  bool byte_fallback = true;         // characters without a piece become <0xXX>
  bool remove_extra_spaces = false;  // runs of spaces become one, none at the ends
  std::string precompiled_charsmap;  // SentencePiece's normalization rules; empty: none
  std::vector<float> scores;         // one per token
};

// What the parts of a vocabulary are called in its file, and what to do where they are wrong: for messages.
struct VocabularyNames {
  const char* tokens;
  const char* types;
  const char* scores;
  const char* bos;
  const char* eos;
  const char* unk;
  const char* pad;
  const char* cure;
};
inline constexpr VocabularyNames kGgufNames = {
    "tokenizer.ggml.tokens",
    "tokenizer.ggml.token_type",
    "tokenizer.ggml.scores",
    "tokenizer.ggml.bos_token_id",
    "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.unknown_token_id",
    "tokenizer.ggml.padding_token_id",
    "convert the model again with a current convert_hf_to_gguf.py of llama.cpp, or ask the file's publisher to"};
inline constexpr VocabularyNames kSentencePieceNames = {
    "pieces",
    "types of the pieces",
    "scores of the pieces",
    "bos_id",
    "eos_id",
    "unk_id",
    "pad_id",
    "the file is damaged or no tokenizer's: get the tokenizer's files from the model's publisher again"};

// Checked from file contents. Tokens are unique UTF-8; an empty one gets the name [EMPTY_id]. Types are 1..6.
// `types`: empty for "all normal, but for bos, eos, unk and <0xXX>". Ids must be tokens. Throws FormatError.
Vocabulary checked_vocabulary(std::vector<std::string> tokens, const std::vector<int32_t>& types,
                              std::optional<int64_t> bos, std::optional<int64_t> eos, std::optional<int64_t> unk,
                              std::optional<int64_t> pad, const std::string& file, const VocabularyNames& names);

bool is_utf8(std::string_view text) noexcept;
bool is_byte_token(std::string_view token) noexcept;  // "<0x0A>"
// The token with a space for each U+2581: as it stands in texts.
std::string with_spaces(std::string_view token);
// Whether a special token of this text is taken for one that ends a turn or a text, also where no file says so.
bool ends_by_name(std::string_view token) noexcept;

// The object in `text`, empty: an empty one. FormatError that opens with `file`: no JSON, no object, or nested more
// than 100 deep, which is found before the parser builds it (destroying a deep value recurses).
nlohmann::json parse_bounded_object(std::string_view text, const std::string& file);

// The object of a tokenizer.json without model, normalizer, pre-tokenizer and decoder: added tokens and post-processor.
nlohmann::json tokenizer_frame(const Vocabulary& vocabulary);
// Left and right token, best first; both live in the vocabulary or its file.
using MergeList = std::vector<std::pair<std::string_view, std::string_view>>;
// The text of a tokenizer.json of BPE: `frame`, in whose model "vocab" and "merges" are null, with the two in place.
// They are written and not built as values, which take some twenty times their text.
std::string bpe_text(const nlohmann::json& frame, const Vocabulary& vocabulary, const MergeList& merges);
// The tokenizer.json of a SentencePiece vocabulary. User-defined tokens are matched in the text itself, so U+2581 in
// them becomes a space first. Throws FormatError when the pieces are so long that ranking them would not end.
std::string sentencepiece_text(Vocabulary& vocabulary, const SentencePieceRules& rules, const std::string& file,
                               const VocabularyNames& names);
nlohmann::json tokenizer_config(const Vocabulary& vocabulary);
nlohmann::json generation_config(const Vocabulary& vocabulary);

}  // namespace metal_marlin

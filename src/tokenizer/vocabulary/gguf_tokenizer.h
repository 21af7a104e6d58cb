// The tokenizer inside a GGUF file, rebuilt as the files of a Hugging Face folder.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tokenizer/tokenizer_json.h"

namespace metal_marlin {

// The keys tokenizer.ggml.* and tokenizer.chat_template. Absent arrays are empty: what the kind of tokenizer needs and
// the file lacks is refused, not made up.
struct GgufTokenizerData {
  std::string model;                // "gpt2": byte-level BPE; "llama": SentencePiece BPE; "gemma4": BPE over characters
  std::string pre;                  // only for BPE with merges; empty means "default", with a warning
  std::vector<std::string> tokens;  // token i is the text of id i
  std::vector<int32_t> token_types;  // see TokenType
  std::vector<float> scores;         // of "llama": a higher score merges first
  std::vector<std::string> merges;   // "left right", best first
  std::optional<int64_t> bos, eos, unk, pad;
  // Further ids that end a generation, each with its key: end of turn, end of message, end-of-generation lists.
  std::vector<std::pair<std::string, int64_t>> ends;
  std::optional<bool> add_bos, add_eos, add_space_prefix;
  std::string chat_template;
};

// Throws FormatError (arrays of unequal length, ids out of range, duplicate tokens, merges of tokens that do not
// exist, texts that are not UTF-8; a key that this kind of tokenizer needs is missing) and UnsupportedError (unknown
// model or pre; the message lists the known ones). `file` opens every message.
//
// "llama": SentencePiece's BPE merges the neighbours whose joined piece has the highest score, so every split of a
// piece into two pieces becomes a merge, ranked by the score of the piece (as transformers' converters do).
RebuiltTokenizer rebuild_gguf_tokenizer(const GgufTokenizerData& data, const std::string& file);

}  // namespace metal_marlin

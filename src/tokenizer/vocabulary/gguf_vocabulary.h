// A tokenizer of a Hugging Face folder as the keys of a GGUF file: the other way of gguf_tokenizer.h.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/tokenizer.h"
#include "tokenizer/tokenizer_files.h"
#include "tokenizer/vocabulary/gguf_tokenizer.h"

namespace metal_marlin {

struct GgufVocabulary {
  GgufTokenizerData data;
  std::vector<std::string> warnings;  // what GGUF cannot say of single tokens, one line each
};

// As llama.cpp's convert_hf_to_gguf.py makes the keys: "gpt2" for byte-level BPE, with the tokenizer.ggml.pre that cuts
// text as tokenizer.json does, "llama" for SentencePiece BPE, whose scores are found again from the order of the
// merges. Tokens are padded with [PADn] to the rows of the model's embedding, and those beyond are left out.
//
// `tokenizer` was made from `files`; `folder` opens messages. Before it returns, the data are made a tokenizer again as
// readers do, and texts that are hard to cut must become the same ids. UnsupportedError says what GGUF has no place
// for; FormatError for a damaged tokenizer.json.
GgufVocabulary gguf_vocabulary(const TokenizerFiles& files, const Tokenizer& tokenizer, int64_t model_vocab,
                               const std::string& folder);

// Texts that show how a tokenizer cuts: spaces, line ends, digits, contractions, code, scripts, emoji.
std::vector<std::string_view> texts_hard_to_cut();

}  // namespace metal_marlin

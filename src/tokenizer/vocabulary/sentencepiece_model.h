// tokenizer.model, the protobuf of SentencePiece, rebuilt as the files of a Hugging Face folder.
#pragma once

#include <string>
#include <string_view>

#include "tokenizer/tokenizer_json.h"

namespace metal_marlin {

// `tokenizer_config_json`: the folder's own settings, or empty; its special tokens, add_bos_token,
// added_tokens_decoder, legacy and add_prefix_space are honoured, and it is returned with what it leaves open filled in
// (add_bos_token: true, as LlamaTokenizer does). `config_json`: the model's, or empty; its model_type and
// tokenizer_class decide by which rules the pieces are read. Throws FormatError (broken protobuf or contents),
// UnsupportedError (no SentencePiece model, such as a tiktoken file; word or character models; whitespace as a suffix).
// `file` opens the messages.
RebuiltTokenizer tokenizer_from_sentencepiece(std::string_view model, const std::string& file,
                                              const std::string& tokenizer_config_json,
                                              const std::string& config_json = {});

}  // namespace metal_marlin

// The keys tokenizer.* of a GGUF file, read and written.
#pragma once

#include <vector>

#include "formats/gguf.h"
#include "formats/gguf/gguf_write.h"
#include "tokenizer/vocabulary/gguf_tokenizer.h"

namespace metal_marlin {

// What is missing stays empty. FormatError for keys of another type.
GgufTokenizerData read_gguf_tokenizer(const GgufMetadata& metadata);
std::vector<GgufPair> gguf_tokenizer_pairs(const GgufTokenizerData& data);

}  // namespace metal_marlin

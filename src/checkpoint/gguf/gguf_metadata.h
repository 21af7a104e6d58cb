// The keys of a GGUF file that is written from a model: what llama.cpp's loader asks for, as its
// convert_hf_to_gguf.py writes it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "checkpoint/model_source.h"
#include "formats/gguf/gguf_write.h"

namespace metal_marlin {

struct GgufMetadataOptions {
  uint32_t file_type = 1;  // general.file_type: llama_ftype of llama.cpp, 1 F16, 32 BF16, 0 F32, 15 Q4_K_M, ...
  std::string name;        // general.name; empty: as the source calls itself
};

struct GgufKeys {
  std::vector<GgufPair> pairs;
  std::vector<std::string> warnings;  // what the file cannot say and engines will do differently, one line each
};

// Of a model in a folder: general.*, the architecture's keys and the tokenizer. Of a GGUF file: its own keys, those
// that nobody here knows too, but for general.file_type, general.alignment and what speaks of its quantization
// (quantize.*) and its parts (split.*). UnsupportedError says what of the model GGUF or llama.cpp's architecture has no
// place for. Errors of the tokenizer's files too.
GgufKeys gguf_metadata(const ModelSource& source, const GgufMetadataOptions& options);

// The keys of the architecture alone, "llama.block_count" and so on, and general.architecture before them.
GgufKeys gguf_architecture_keys(const ModelSource& source);

}  // namespace metal_marlin

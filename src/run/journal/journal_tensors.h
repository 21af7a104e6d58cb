// Tokens and finished blocks as the tensors of a journal's files. Whoever reads them trusts no byte: FormatError names
// the file and says how to start over.
#pragma once

#include <string>

#include "core/tensor.h"
#include "formats/safetensors.h"
#include "stages/finished_block.h"
#include "tokenizer/token_set.h"

namespace metal_marlin {

// A file below a folder that is held (core/files/held_folder.h).
SafetensorsFile open_tensors(const std::string& path);
OwnedTensor copy_of(const TensorView& view);

// Each sequence as its length and its tokens.
OwnedTensor token_tensor(const std::string& name, const TokenSet& set);
TokenSet token_set(const TensorView& view, const std::string& path);

// Codes (rows of bits, pack/bits/row_stream.h), scales and zeros or minima as they are, blocks of ggml types as rows of
// bytes, and the tensors that folding changed.
void write_block_tensors(const std::string& path, const FinishedBlock& block);
FinishedBlock read_block_tensors(const std::string& path);

}  // namespace metal_marlin

// The tensors of a GGUF file that is written from a model, and their values.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "checkpoint/model_source.h"
#include "core/tensor.h"
#include "formats/gguf/gguf_write.h"

namespace metal_marlin {

struct GgufPart {
  std::string gguf;            // its name in the file
  std::string name;            // of the model's tensor; empty: made from the config, with the values below
  std::vector<int64_t> shape;  // slowest first
  bool in_f32 = false;         // norms, biases and factors, which llama.cpp reads in F32 alone
  int64_t heads = 0;           // > 0: rows stand as gguf_row() says
  bool plus_one = false;       // stored as 1 + weight
  std::vector<float> values;
};

// The dimensions of a head that turn.
int64_t gguf_turning_dimensions(const ModelConfig& config);

// The tensors of the file in its order: factors of the rotary embedding, embedding, blocks, last norm, head. Tensors
// that a model of GGUF files has no place for are not among them (ModelSource::left_out).
std::vector<GgufPart> gguf_parts(const ModelSource& source);

// Rows of a part in the file's order, as the file means them: [rows, columns], of one dimension [1, n]. Errors as
// ModelSource::load(). In the order of the file a row of a permuted part stands beside others of its head, so a piece
// of whole heads reads each row once.
Matrix gguf_values(const ModelSource& source, const GgufPart& part, int64_t first_row, int64_t rows);

}  // namespace metal_marlin

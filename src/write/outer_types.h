// What stands around the blocks of a model, the embedding and the head: formats that round them too, and to what.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/tensor.h"
#include "core/values.h"

namespace metal_marlin {

class Layout;
class ModelSource;

// As asked for; nothing: the format's own.
struct OuterTypes {
  std::optional<GgmlType> embedding;
  std::optional<GgmlType> head;  // of the embedding too, where it is the head
  std::optional<int> bits;       // of both, in formats of codes that hold them; nothing: they stay floats
};

// ggml's names of floats and of the types that weights can be rounded to: "F16", "Q8_0", ...
const std::vector<std::string>& outer_type_names();
// Nothing for another name.
std::optional<GgmlType> outer_type_named(const std::string& name);

// The type of `tensor`, the source's embedding or head, in a file of this layout; nothing for any other tensor and
// layout. By default the head has Q6_K, or Q8_0 where its columns are no multiple of 256, as llama.cpp's files have it;
// an embedding that is no head has the type of most linears. ArgumentError where the blocks that were asked for do not
// fit the columns.
std::optional<GgmlType> outer_type(const ModelSource& source, const Layout& layout, const OuterTypes& asked,
                                   const std::string& tensor);

// The grid of that tensor's codes in a format that holds such codes (Layout::holds_embedding()): of the bits that were
// asked for, in groups of `group_size`, or of 64 or 32 where that divides no row. Nothing for any other tensor and
// format, and where it stays as it is.
std::optional<Grid> outer_grid(const ModelSource& source, const Layout& layout, const OuterTypes& asked,
                               int64_t group_size, const std::string& tensor);

// Whether the source, a GGUF file, stores the tensor in that type: then it is passed on as it is.
bool stored_in(const ModelSource& source, const std::string& tensor, GgmlType type);
// Rounds rows of that tensor to what the file's reader will find: of blocks and float16; nothing happens to others.
void round_outer_rows(GgmlType type, Matrix& rows);

}  // namespace metal_marlin

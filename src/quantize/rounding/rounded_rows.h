// Rows that no statistics belong to, such as an embedding's: each block or group for itself, with the least squared
// error.
#pragma once

#include "core/tensor.h"
#include "core/values.h"
#include "formats/blocks/block_tensor.h"

namespace metal_marlin {

// rows [n, in_features] as blocks of a ggml type. A row's bytes depend on nothing but the row. Values that were blocks
// of this type before, and were rounded to float16 since, become those blocks again, of the types with one scale and no
// minimum (Q4_0, Q5_0, Q8_0). Errors as quantize_to_blocks(). Memory: in_features^2 floats.
BlockTensor round_rows(const Matrix& rows, GgmlType type);
// The same as codes of a grid, whose ranges are chosen by the squared error. Errors as group_ranges().
QuantizedTensor round_rows(const Matrix& rows, const Grid& grid);

}  // namespace metal_marlin

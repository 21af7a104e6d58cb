// A weight as blocks of a ggml type.
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <vector>

#include "core/tensor.h"
#include "formats/blocks/block_fields.h"

namespace metal_marlin {

// Of a type with a BlockForm. Rows follow each other; in_features is a multiple of the block.
struct BlockTensor {
  GgmlType type = GgmlType::kQ4_0;
  int64_t out_features = 0;
  int64_t in_features = 0;
  std::vector<std::byte> bytes;

  int64_t row_bytes() const noexcept { return out_features == 0 ? 0 : std::ssize(bytes) / out_features; }
};

// float32 [out, in], as readers compute it.
Matrix dequantize(const BlockTensor& tensor);
// The same for rows first .. first + count - 1, into `out` [count, in].
void dequantize_rows(const BlockTensor& tensor, int64_t first, int64_t count, float* out);
// Bytes of a row of `in_features` values, a multiple of the type's block.
int64_t block_row_bytes(GgmlType type, int64_t in_features) noexcept;

}  // namespace metal_marlin

#include "formats/blocks/block_tensor.h"

#include <algorithm>
#include <span>

#include "core/threads.h"

namespace metal_marlin {
namespace {

constexpr int64_t kTileRows = 16;  // of a task

}  // namespace

Matrix dequantize(const BlockTensor& tensor) {
  Matrix out(tensor.out_features, tensor.in_features);
  dequantize_rows(tensor, 0, tensor.out_features, out.data());
  return out;
}

void dequantize_rows(const BlockTensor& tensor, int64_t first, int64_t count, float* out) {
  const auto bytes = static_cast<size_t>(tensor.row_bytes());
  parallel_for((count + kTileRows - 1) / kTileRows, [&](int64_t tile) {
    const int64_t row = tile * kTileRows;
    const int64_t rows = std::min(kTileRows, count - row);
    dequantize_blocks(
        tensor.type,
        std::span(tensor.bytes).subspan(static_cast<size_t>(first + row) * bytes, static_cast<size_t>(rows) * bytes),
        out + row * tensor.in_features, rows * tensor.in_features);
  });
}

int64_t block_row_bytes(GgmlType type, int64_t in_features) noexcept {
  const GgmlTypeInfo info = ggml_type_info(type);
  return in_features / info.block * info.bytes;
}

}  // namespace metal_marlin

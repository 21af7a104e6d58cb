// Small conversions that all kinds of checkpoints share.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/tensor.h"

namespace metal_marlin {

// Elements first .. first + count - 1 of a F32, F16 or BF16 tensor as f32, in parallel. UnsupportedError otherwise.
void to_f32(const TensorView& tensor, const std::string& file, int64_t first, int64_t count, float* out);
// f16 of a matrix; NumericError naming `name` where a value is beyond f16's range.
OwnedTensor to_f16(const std::string& name, const std::vector<int64_t>& shape, const Matrix& values);
// [rows, columns] of a tensor with one or two dimensions; FormatError otherwise.
std::pair<int64_t, int64_t> matrix_shape(const std::vector<int64_t>& shape, const std::string& name, const std::string& file);
// ArgumentError unless 0 <= first and first + rows <= all.
void check_rows(const std::string& name, int64_t first, int64_t rows, int64_t all);

// Digest of 16 pages of 4 KiB, evenly spaced, and of the size.
uint64_t digest_sample(std::span<const std::byte> bytes, uint64_t state);
// Digest of a file's size and time of last change.
uint64_t digest_time(const std::string& path, uint64_t state);

}  // namespace metal_marlin

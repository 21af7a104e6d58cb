// Small conversions that all kinds of checkpoints share.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/files/digest.h"
#include "core/files/mapped_file.h"
#include "core/tensor.h"

namespace metal_marlin {

// Elements first .. first + count - 1 of a F32, F16 or BF16 tensor as f32, in parallel. UnsupportedError otherwise.
void to_f32(const TensorView& tensor, const std::string& file, int64_t first, int64_t count, float* out);
// f16 of a matrix, without a name; NumericError that begins with `where` (file and tensor) when values are beyond f16's
// range: how many, and the first.
OwnedTensor to_f16(const std::string& where, const std::vector<int64_t>& shape, const Matrix& values);
// The first of rows * columns values that is not finite, -1 where all are. `read` gives rows first .. first + count - 1
// as f32; it is asked for some of them at a time.
int64_t first_not_finite_of(int64_t rows, int64_t columns,
                            const std::function<void(int64_t first, int64_t count, float* out)>& read);
// [rows, columns] of a tensor with one or two dimensions; FormatError otherwise.
std::pair<int64_t, int64_t> matrix_shape(const std::vector<int64_t>& shape, const std::string& name,
                                         const std::string& file);
// ArgumentError unless 0 <= first and first + rows <= all.
void check_rows(const std::string& name, int64_t first, int64_t rows, int64_t all);

// Adds the size, and 16 pages of 4 KiB, evenly spaced.
void add_sample(Digester& digester, std::span<const std::byte> bytes);
// Adds a file: its bytes up to 1 GiB, else its size and time of last change.
void add_file(Digester& digester, const MappedFile& file);
// Adds name, type and shape.
void add_header(Digester& digester, const std::string& name, std::string_view type, std::span<const int64_t> shape);

// Names in a folder, ascending. SystemError naming it when it cannot be read.
std::vector<std::string> names_in_folder(const std::string& folder);

}  // namespace metal_marlin

// What the layouts share: checks of a QuantizedTensor before packing, checks of stored parts before unpacking, and the
// arrays with one value per group. These are [out, groups] in memory and in layouts of rows (row_stream.h), [groups,
// out] in the others.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "core/values.h"
#include "pack/packed_tensor.h"

namespace metal_marlin {

// What a layout can hold.
struct LayoutLimits {
  const char* name;
  std::vector<int> widths = {4};  // bits of a code
  bool short_groups = false;      // the last group of a row
  bool scattered_groups = false;  // act order
  bool minima = false;            // in place of zeros; bfloat16 scales too
};
// "4" of {4}, "3, 4 or 8" of {3, 4, 8}.
std::string list_widths(std::span<const int> widths);
// Throws ArgumentError naming `name` for bits, groups, minima or scales that the layout cannot hold, arrays of the
// wrong size, a zero of 2^bits or above, and a scale that is not finite. (Codes are checked while they are packed.)
void check_packable(const QuantizedTensor& tensor, const std::string& name, const LayoutLimits& layout);
[[noreturn]] void refuse_codes(const QuantizedTensor& tensor, const std::string& name);  // some code is 2^bits or above

// Throws FormatError naming `name`, what was expected and what was found, unless `part` has this type and shape, and
// the bytes for it.
void expect_part(const TensorView& part, DType dtype, std::span<const int64_t> shape, const std::string& name,
                 const char* what);
// Returns in_features for group_size < 0. Throws FormatError when group_size does not divide in_features.
int64_t explicit_group_size(int64_t group_size, int64_t in_features, const std::string& name);

// Prepares part `index` of `out` and returns its bytes. The old buffer, with its old content, is used again where the
// size is the same.
std::byte* prepare_part(PackedTensor& out, size_t index, const char* part, DType dtype, std::vector<int64_t> shape);

// Writes the scales as F16 [groups, out] into `out`.
void pack_scales(const QuantizedTensor& tensor, std::byte* out);
// Words I32 [groups, out bits/32]: row j is the stream of bits (pack/bits/bit_runs.h) of the zeros of columns 0, 1, ..,
// or at 4 bits, when `interleaved`, of columns 8c + 0 2 4 6 1 3 5 7; then `minus` is subtracted from each zero, on the
// word as a whole. out must be a multiple of run_codes(bits).
void pack_zero_words(const QuantizedTensor& tensor, bool interleaved, uint8_t minus, std::byte* out);
// The inverse: fills tensor.zeros and sets `symmetric`.
void unpack_zero_words(const std::byte* words, bool interleaved, uint8_t plus, QuantizedTensor& tensor);
// Fills tensor.scales. Throws FormatError when a scale is not finite.
void unpack_scales(const TensorView& scales, QuantizedTensor& tensor, const std::string& name);

// Floats of groups [out, groups] that a layout stores row by row, in any float type. FormatError naming `name` for
// another type or shape, and for one that is not finite.
std::vector<float> read_group_floats(const TensorView& part, int64_t out_features, int64_t groups,
                                     const std::string& name, const char* what);
// The 16-bit type that holds all of `values` exactly, float16 where both do; nothing where none does.
std::optional<ScaleType> exact_type(std::span<const float> values) noexcept;
std::vector<uint16_t> encode_all(std::span<const float> values, ScaleType type);
// The scales, and minima unless empty, in one type. UnsupportedError naming `name` where float16 and bfloat16 would
// both lose bits of them.
void set_group_floats(std::span<const float> scales, std::span<const float> minima, const std::string& name,
                      QuantizedTensor& tensor);
DType dtype_of(ScaleType type) noexcept;

bool is_finite_f16(uint16_t bits) noexcept;

// [rows, columns] -> [columns, rows], in blocks of cache lines.
template <typename T>
void transpose_array(const T* in, int64_t rows, int64_t columns, T* out) noexcept {
  constexpr int64_t kBlock = 64;
  for (int64_t r = 0; r < rows; r += kBlock) {
    const int64_t end = r + kBlock < rows ? r + kBlock : rows;
    for (int64_t c = 0; c < columns; ++c) {
      for (int64_t i = r; i < end; ++i) out[c * rows + i] = in[i * columns + c];
    }
  }
}

}  // namespace metal_marlin

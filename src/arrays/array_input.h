// Checks the arrays of callers and turns them into matrices.
#pragma once

#include <metal_marlin/array.h>

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <optional>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace metal_marlin {

// All functions of this header throw ArgumentError naming the argument, what was expected and what was found.

// `shape` is what is expected, "[K, N]"; -1 in `sizes` matches any positive size.
void expect_shape(const ArrayView& array, const char* name, const std::vector<int64_t>& sizes, const char* shape);
void expect_float(const ArrayView& array, const char* name);
void expect_type(const ArrayView& array, const char* name, ElementType type);
// Throws ArgumentError unless group_size is 1 to kMostGroupSize or, with `whole_row`, -1.
inline constexpr int64_t kMostGroupSize = int64_t{1} << 20;
void expect_group_size(int64_t group_size, bool whole_row = false, const char* name = "group_size");

// An error that stages return as negative where they had nothing to measure it by.
inline std::optional<double> measured(double error) {
  return error >= 0 ? std::optional(error) : std::nullopt;
}

// Returns the strides in elements, also those of a row-major array.
std::vector<int64_t> strides_of(const ArrayView& array);

// Return finite float values as float32. Throw NumericError naming `name` and the first value that is not finite or
// exceeds float32.
Matrix load_matrix(const ArrayView& array, const char* name);              // [a, b] -> [a, b]
Matrix load_transposed(const ArrayView& array, const char* name);          // [a, b] -> [b, a]
std::vector<float> load_vector(const ArrayView& array, const char* name);  // [a]
// Elements of 8 bits, [a, b] -> [b, a].
std::vector<uint8_t> load_bytes_transposed(const ArrayView& array);
// Words of 32 bits, [a, b] -> [a, b].
std::vector<uint32_t> load_words(const ArrayView& array);

// Expects [B, T, K] or [tokens, K] with at least one token, and returns K.
int64_t expect_activations(const ArrayView& activations, const char* name);
int64_t token_count(const ArrayView& activations);
// Expects the arguments "weights" [K, N] and "activations" of as many channels, and returns K.
int64_t expect_layer(const ArrayView& weights, const ArrayView& activations);
// Calls fn(rows, count) for batches of at most 4096 tokens as float32 [count, K]. Makes no copy where the array already
// has that form.
void for_each_batch(const ArrayView& activations, const char* name,
                    const std::function<void(const float* rows, int64_t count)>& fn);

// The values as `type` (float16, bfloat16, float32 or float64). Throws ArgumentError naming `type_name` for another
// type, NumericError naming `name` for a value that the type cannot hold.
Array to_type(const Matrix& values, ElementType type, const char* name, const char* type_name = "type");
Array copy_array(ElementType type, std::vector<int64_t> shape, const void* data);

}  // namespace metal_marlin

// The kernels of the integer products (product.h) and the table that chooses them. METAL_MARLIN_ISA forces a row by
// name: one of this table, which brings its row of float kernels with it, or one of the float kernels' table, with the
// integer kernels that need no more than it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace metal_marlin {

struct CodeTiles;
struct RoundedRows;

// Kernels run on the calling thread and allocate nothing. Every row of the table gives the same bits.
struct CodeKernels {
  const char* name = "";    // as in instruction_sets.h
  const char* floats = "";  // row of the float kernels that goes with it
  // Activations to 8 bits: x [segments * length], length a multiple of 8. Per segment the scale is max |x| / 127, a
  // code x / scale to nearest even, and the sum is that of the codes. A segment that holds Inf or NaN has codes 0 and
  // the scale NaN.
  void (*round_segments)(const float* x, int64_t segments, int64_t length, int8_t* codes, float* scales,
                         int32_t* sums) noexcept = nullptr;
  // y[r * ldy + o] of the outputs o of tiles first_tile .. first_tile + tiles - 1, counted from the first of them, for
  // `rows` rows: the sums of product.h, which do not depend on the number of rows.
  void (*multiply_codes)(const CodeTiles& w, int64_t first_tile, int64_t tiles, const RoundedRows& x, int64_t rows,
                         float* y, int64_t ldy) noexcept = nullptr;
};

// The row in use. ArgumentError as kernels(). Thread-safe.
const CodeKernels& code_kernels();
// The row that `name` asks for, as METAL_MARLIN_ISA would (empty: the best).
const CodeKernels& code_kernels_by_name(const std::string& name);
// Rows of this machine, slowest first.
const std::vector<CodeKernels>& supported_code_kernels();

}  // namespace metal_marlin

// Converts stored floats to float16 and counts what did not fit.
#pragma once

#include <cstdint>

#include "core/tensor.h"

namespace metal_marlin {

// What happened to the values of one tensor.
struct F16Conversion {
  uint64_t clamped = 0;  // finite, but beyond +-65504 after rounding: written as +-65504
  uint64_t flushed = 0;  // not zero, but zero after rounding (below 2^-25)
  uint64_t rounded = 0;  // finite, and another number after the conversion (clamped and flushed ones too)
  float largest = 0;     // largest finite magnitude before the conversion
};

// out[0 .. elements) = f16 bits of `tensor` (F16, BF16 or F32), rounded to nearest, ties to even. Infinities stay. Adds
// to the counts in `result`. Throws NumericError naming the tensor for a NaN, UnsupportedError for another type.
void convert_to_f16(const TensorView& tensor, uint16_t* out, F16Conversion& result);

}  // namespace metal_marlin

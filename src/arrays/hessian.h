// Reads the Hessians of callers and makes those of activations.
#pragma once

#include <metal_marlin/array.h>

#include <cstdint>

#include "core/tensor.h"

namespace metal_marlin {

// Returns [n, k] as float32. ArgumentError and NumericError name `name`.
Matrix load_weight(const ArrayView& array, const char* name);
// Returns [k, k] as float32. Throws ArgumentError unless it is symmetric up to rounding in float32, NumericError for a
// negative diagonal.
Matrix load_hessian(const ArrayView& array, int64_t k, const char* name);
// float64 [K, K]: factor X^T X of activations [tokens, K] or [B, T, K], sums in float64.
Array sum_of_products(const ArrayView& activations, double factor, const char* name);
// Throws ArgumentError unless damping is 0 to 1.
void expect_damping(double damping, const char* name);

}  // namespace metal_marlin

// Hessians of callers, and what they say of a layer's errors.
#pragma once

#include <metal_marlin/array.h>

#include <cstdint>

#include "core/tensor.h"

namespace metal_marlin {

// [n, k] as float32; ArgumentError and NumericError name `name`.
Matrix load_weight(const ArrayView& array, const char* name);
// [k, k] as float32. ArgumentError unless symmetric (but for rounding in float32), NumericError for a negative
// diagonal.
Matrix load_hessian(const ArrayView& array, int64_t k, const char* name);
// float64 [K, K]: factor X^T X of activations [tokens, K] or [B, T, K], sums in float64.
Array sum_of_products(const ArrayView& activations, double factor, const char* name);
// ArgumentError unless 0 to 1.
void expect_damping(double damping, const char* name);

// tr(M H M^T) for M [n, k], H [k, k] symmetric.
double hessian_form(const Matrix& m, const Matrix& hessian);

}  // namespace metal_marlin

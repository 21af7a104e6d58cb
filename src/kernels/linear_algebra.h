// Dense linear algebra over OpenBLAS whose bytes do not depend on the number of threads: every library call runs on one
// thread, on a tile whose bounds follow from the shapes alone; the routines for whole matrices share tiles with
// parallel_for. All matrices are row-major. Shapes and pointers are the caller's duty; nothing here is validated unless
// it says so.
#pragma once

#include <cstdint>
#include <span>

#include "core/tensor.h"
#include "kernels/gemm.h"

namespace metal_marlin {

// ---- one thread, one tile -------------------------------------------------------------------------------------------
// C [m, n] = alpha op(A) op(B) + beta C, where op(A) is [m, k] and op(B) is [k, n]; ld*: elements between rows as
// stored.
void sgemm_tile(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, float alpha, const float* a,
                int64_t lda, const float* b, int64_t ldb, float beta, float* c, int64_t ldc) noexcept;
void dgemm_tile(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, double alpha, const double* a,
                int64_t lda, const double* b, int64_t ldb, double beta, double* c, int64_t ldc) noexcept;
// Upper half of C [n, n] = alpha A^T A + beta C with A [k, n]. The lower half is left alone.
void ssyrk_tile(int64_t n, int64_t k, float alpha, const float* a, int64_t lda, float beta, float* c,
                int64_t ldc) noexcept;
// out[r] = e_r G e_r^T for the rows e_r of E [rows, k]; G [k, k] symmetric, of which only the upper half is read.
// About half the arithmetic of a plain product: rows * k (k + kQuadraticColumns) / 2 multiply-adds. scratch: rows *
// kQuadraticColumns floats.
inline constexpr int64_t kQuadraticColumns = 128;
void quadratic_rows(const float* e, int64_t rows, int64_t lde, const float* gram, int64_t ldg, int64_t k,
                    float* scratch, double* out) noexcept;

// ---- whole matrices, parallel over fixed tiles ----------------------------------------------------------------------
inline constexpr int64_t kBF16GramTokens = 1024;  // of which a bf16 copy is held at once
// gram += x^T x for x [tokens, k]; gram [k, k], upper half only. Sums in float32: at most 4096 tokens a call keep the
// error of a sum near 1e-6 of the diagonal. ArgumentError when gram is not [k, k].
// kBF16: x is rounded to bf16 first (relative 2^-9 per value, without bias); 1.8 times as fast where the machine has
// such products, else kF32. Holds a copy of kBF16GramTokens tokens.
void gram_accumulate(const float* x, int64_t tokens, int64_t k, Matrix& gram,
                     MatmulPrecision type = MatmulPrecision::kF32);
// gram <- gram / tokens, upper half copied to the lower. tokens >= 1.
void gram_finish(Matrix& gram, uint64_t tokens);
// gram[k, l] <- gram[k, l] / (scale[k] scale[l]): the Gram matrix of x / scale. ArgumentError when the sizes differ.
void scale_gram(Matrix& gram, std::span<const float> scale);

// Lower Cholesky factor L of A [n, n] = L L^T, in place; only the lower half is read and written. Returns -1, or the
// first row whose pivot was not positive (A is then partly overwritten).
int64_t cholesky_lower(double* a, int64_t n);
int64_t cholesky_lower(float* a, int64_t n);
// L <- L^-1 in place, L lower triangular with nonzero diagonal; only the lower half is read and written. Two panels of
// n x 128 float64 beside it.
void invert_lower(double* l, int64_t n);

}  // namespace metal_marlin

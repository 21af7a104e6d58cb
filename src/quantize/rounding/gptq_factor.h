// What GPTQ needs of an input: the order of its channels, and the factor by which an error is made up for.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/tensor.h"
#include "core/values.h"

namespace metal_marlin {

// This share of the mean diagonal is added to each diagonal entry of H, so that H stays invertible where a channel is
// always zero.
inline constexpr double kDeadDamping = 1e-7;

struct GptqOptions {
  bool act_order = true;  // columns by descending diagonal of the damped Gram matrix, ties by index; else by index
  double damping = 0.01;  // share added to the diagonal
  bool relative_damping = true;  // a share of each diagonal entry; else of the diagonal's mean
};

// A damping is raised by this factor, and raised a second time by it. Measured (docs/accuracy.md): asymmetric grids
// leave less error to feed back, so more damping costs them less.
inline constexpr double kRaisedDamping = 7;
inline constexpr double kRaisedDampingOfZeros = 10;
constexpr double raised_damping(const Grid& grid) noexcept {
  return grid.symmetric ? kRaisedDamping : kRaisedDampingOfZeros;
}

// What the linears of one input share. `upper` = U, upper triangular, positive diagonal, with (P H P^T)^-1 = U^T U.
struct GptqFactor {
  Matrix upper;                // [in, in], both halves written (zeros below)
  std::vector<int32_t> order;  // [in] order[j]: the column that is rounded j-th
  double damping = 0;          // with which the factorization succeeded
  int retries = 0;             // times the damping was raised tenfold because H was not positive definite
};

// H = gram (upper half read), H_kk <- H_kk (1 + damping) + 1e-7 mean(diag), or H_kk + (damping + 1e-7) mean(diag). A
// gram of zeros counts as the identity, which gives plain rounding. U comes from one Cholesky factorization in float64
// of H in reversed order and the inverse of that factor: in^3 / 3 multiply-adds. Throws NumericError for NaN, Inf or a
// negative diagonal in gram, and when H is not positive definite even after three retries.
GptqFactor make_gptq_factor(const Matrix& gram, const GptqOptions& options = {});

// Brings the columns of weight, and rows and columns of gram (both halves filled), into the order of GptqOptions::
// act_order, and returns the order: groups of neighbours there are what other programs call groups in act order. The
// pipeline has static groups, which need no g_idx; the functions of metal_marlin/gptq.h promise these. Rounding then
// goes without act_order.
std::vector<int32_t> sort_columns(Matrix& weight, Matrix& gram);

// Turns the factor of H into that of S^-1 H S^-1, S = diag(scale) [in] by channel: U <- U S, since (S^-1 H S^-1)^-1 = S
// H^-1 S. The order stays. Damping that is relative to the diagonal scales with it (except its floor of 1e-7), so one
// factor serves all scales.
void scale_factor(GptqFactor& factor, std::span<const float> scale);

// Throws ArgumentError unless the factor is one of `in_features` columns.
void require_factor(const GptqFactor& factor, int64_t in_features);

}  // namespace metal_marlin

// GPTQ (arXiv 2210.17323) with static groups. Columns are rounded one by one. The columns that are not yet rounded make
// up for each column's error, weighted by the inverse of the input's Gram matrix.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/tensor.h"
#include "core/values.h"
#include "quantize/group_range.h"

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

// Turns the factor of H into that of S^-1 H S^-1, S = diag(scale) [in] by channel: U <- U S, since (S^-1 H S^-1)^-1 = S
// H^-1 S. The order stays. Damping that is relative to the diagonal scales with it (except its floor of 1e-7), so one
// factor serves all scales.
void scale_factor(GptqFactor& factor, std::span<const float> scale);

// Returns the codes for the given static ranges. The group of column k is k / group_size whatever the order.
//   for j = 0, 1, ...: k = order[j]; c = clamp(rint((w_k - m) / S) + zero, 0, levels - 1); err = (w_k - (c - zero) S -
//   m) / U_jj; w_order[l] -= err U_jl for all l > j.
// Rows in float32, out * in^2 / 2 multiply-adds. ArgumentError when shapes disagree; NumericError: NaN or Inf in
// weight.
QuantizedTensor quantize_gptq(const Matrix& weight, const GptqFactor& factor, const GroupRanges& ranges,
                              const Grid& grid);

// Peak resident bytes of make_gptq_factor followed by quantize_gptq of one linear, beyond gram and weight themselves,
// for in_features inputs, out_features outputs and threads() threads as set now. Counts only the touched halves of the
// two triangles, a little over 6 in^2 bytes; address space is reserved for 12 in^2.
uint64_t gptq_memory_bytes(int64_t in_features, int64_t out_features);

}  // namespace metal_marlin

// GPTQ (arXiv 2210.17323) with static groups. Columns are rounded one by one. The columns that are not yet rounded make
// up for each column's error, weighted by the inverse of the input's Gram matrix.
#pragma once

#include <cstdint>

#include "core/tensor.h"
#include "core/values.h"
#include "quantize/ranges.h"
#include "quantize/rounding/gptq_factor.h"

namespace metal_marlin {

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

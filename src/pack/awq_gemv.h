// AWQ for matrix-vector kernels: AutoAWQ's "gemv" and "gemv_fast", the latter also MIT's llm-awq. They are read, not
// written: engines load gemm.
//
// Notation: N = out_features, K = in_features, g = group size, G = K / g, j = k / g; codes q, zeros z in 0..15. Both
// pad the groups of a row to 8 Z columns, Z = ceil(floor(K / g) / 8) rounded up to a multiple of 1 (g >= 128), 2 (g =
// 64) or 4 (g = 32); there are no other groups. What stands behind the first G is not looked at.
//
// gemv
//   qweight I32 [N, K/8]   nibble i (i = 0 the lowest) of word [n, c] is q[n, 8c + i]
//   qzeros  I32 [N, Z]     nibble i of word [n, c] is z[n, 8c + i]
//   scales  F16 [N, 8Z]    s
//
// gemv_fast; K is a multiple of 64, N of 4
//   qweight I16 [N/4, K]   nibble t (0..3) of halfword [r, 64b + p], p = 0..63, is
//                          q[4r + p div 16, 64b + 32 ((p div 8) mod 2) + 8t + p mod 8]
//   scales  F16 [8Z, N]    s, groups down
//   zeros   F16 [8Z, N]    f16(-s z), called "qzeros" by AutoAWQ and "scaled_zeros" by llm-awq
//
//   halfwords of row r, block b:   p = 0..7        8..15           16..23 ..
//                                  n = 4r          4r              4r + 1
//                                  k = 64b + p     64b + 24 + p    64b + p - 16     in nibble 0, +8 in each next one
//
//   w[n, k] = (q - z) * s[n, j]
//
// Why this order: a thread of the kernel loads 16 bytes, which are eight neighbouring channels of four runs of eight.
#pragma once

#include <cstdint>
#include <string>

#include "core/values.h"
#include "pack/packed_tensor.h"

namespace metal_marlin {

// `name` is for messages. group_size < 0: the whole row. FormatError naming the tensor, what was expected and what was
// found, for groups, dtypes, shapes, and scales that are not finite. Codes::kSkip leaves the codes out.
QuantizedTensor unpack_awq_gemv(const TensorView& qweight, const TensorView& qzeros, const TensorView& scales,
                                int64_t group_size, const std::string& name, Codes codes = Codes::kRead);
// The same. Where every stored product is that of a code and the scale, rounded to float16, the result has these codes
// as zeros; engines add the rounded product, which is at most 2^-11 of it apart. Else it has minima.
QuantizedTensor unpack_awq_gemv_fast(const TensorView& qweight, const TensorView& scaled_zeros,
                                     const TensorView& scales, int64_t group_size, const std::string& name,
                                     Codes codes = Codes::kRead);

}  // namespace metal_marlin

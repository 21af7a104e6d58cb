// AWQ "gemm", as AutoAWQ writes it and transformers, vLLM, SGLang and mlx-lm read it.
//
// Purpose: the 4-bit checkpoint that most other engines load.
// Notation: N = out_features, K = in_features, g = group size, G = K / g, j = k / g; codes q, zeros z in 0..15.
//
//   qweight I32 [K, N/8]   nibble i (i = 0 the lowest) of word [k, c] is q[8c + IL[i], k]
//   qzeros  I32 [G, N/8]   nibble i of word [j, c] is z[8c + IL[i], j]; always there: all nibbles 8 when symmetric
//   scales  F16 [G, N]     s
//                                                            IL = 0 2 4 6 1 3 5 7
//   word [k, c]:   bit 31                                   0
//                  +----+----+----+----+----+----+----+----+
//      column 8c + | 7  | 5  | 3  | 1  | 6  | 4  | 2  | 0  |     all of input channel k
//                  +----+----+----+----+----+----+----+----+
//
//   w[n, k] = (q - z) * s[j, n]
//
// Why this order: the kernel turns a word into four pairs of halves by masking 0x000f000f after shifts by 0, 4, 8, 12;
// one mask takes nibbles i and i + 4, and IL makes these the neighbouring columns 2i and 2i + 1, so that each half2 is
// already in the order of the accumulator.
#pragma once

#include <cstdint>
#include <string>

#include "core/values.h"
#include "pack/packed_tensor.h"

namespace metal_marlin {

// Parts "qweight", "qzeros", "scales". Throws ArgumentError naming `name` unless bits == 4, N % 8 == 0 and K % g == 0.
// (AutoAWQ's own packer needs N % 32 == 0; readers do not.)
PackedTensor pack_awq_gemm(const QuantizedTensor& tensor, const std::string& name);
// The same into `out`. Its buffers are used again where their sizes fit.
void pack_awq_gemm(const QuantizedTensor& tensor, const std::string& name, PackedTensor& out);

// The inverse. `name` is for messages. group_size < 0: the whole row. Throws FormatError naming the tensor, what was
// expected and what was found, for dtypes (U32 counts as I32), shapes, and scales that are not finite. `symmetric` of
// the result is true when every zero is 8. Codes::kSkip leaves the codes out.
QuantizedTensor unpack_awq_gemm(const TensorView& qweight, const TensorView& qzeros, const TensorView& scales,
                                int64_t group_size, const std::string& name, Codes codes = Codes::kRead);

}  // namespace metal_marlin

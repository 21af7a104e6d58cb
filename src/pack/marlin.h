// Marlin, as the package of IST-DASLab writes it (not the layouts that later engines repack to at load).
//
// Purpose: what the Marlin kernel itself multiplies with, 16 x 64 tiles in the order of the tensor cores' registers.
// Notation: N = out_features, K = in_features, g = group size, G = K / g; codes q in 0..15, all zeros 8.
//
//   B  I32 [K/16, 2N]   word [t, 128h + 4i + j], i = 0..31, j = 0..3: nibble m (m = 0 the lowest) is q[n, k] with
//                         e = IL[m], IL = 0 2 4 6 1 3 5 7
//                         k = 16t + 2 (i mod 4) + (e & 1) + 8 ((e >> 1) & 1)
//                         n = 64h + 16j + i / 4 + 8 (e >> 2)
//   s  F16 [G, N]       columns permuted.
//                       g < K, in each run of 64: s[j, 64h + 8a + b] is the scale of column 64h + 8b + a
//                       (an 8 x 8 transpose);
//                       g = K, in each run of 32: s[0, 32h + 8a + b] is the scale of column
//                       32h + 2a + (0 1 8 9 16 17 24 25)[b].
//
//   word (t, h, i, j)   bit 31                                                                   0
//   r = 64h+16j+i/4    +---------+---------+---------+---------+---------+---------+---------+---------+
//   c = 16t+2(i mod 4) |r+8, c+9 |r+8, c+1 | r, c+9  | r, c+1  |r+8, c+8 | r+8, c  | r, c+8  |  r, c   |
//                      +---------+---------+---------+---------+---------+---------+---------+---------+
//   One lane i of a warp loads its four words j at once (16 bytes); 32 lanes load 512 bytes: a tile of 16 k by 64 n.
//
//   w[n, k] = (q - 8) * s
//
// Why this order: mma.m16n8k16 wants of lane i the weights k = 2 (i mod 4) + {0, 1, 8, 9} of column i / 4. A lane's
// word holds these four of two neighbouring 8-column blocks, interleaved by IL so that one mask and shift makes the two
// halves of a half2. The scales follow the same lanes.
#pragma once

#include <cstdint>
#include <string>

#include "core/values.h"
#include "pack/packed_tensor.h"

namespace metal_marlin {

// Returns why a tensor of this shape has no Marlin layout, or an empty string when it has one. group_size is as in
// QuantizedTensor.
std::string marlin_refusal(int64_t out_features, int64_t in_features, int64_t group_size);

// Parts "B", "s". Throws ArgumentError naming `name` unless bits == 4, K % 128 == 0, N % 256 == 0, g is 128 or K, and
// every zero is 8.
PackedTensor pack_marlin(const QuantizedTensor& tensor, const std::string& name);
// The same into `out`. Its buffers are used again where their sizes fit.
void pack_marlin(const QuantizedTensor& tensor, const std::string& name, PackedTensor& out);

// The inverse; all zeros are 8. `name` is for messages. group_size < 0: the whole row. Throws FormatError naming the
// tensor, what was expected and what was found. Codes::kSkip leaves the codes out.
QuantizedTensor unpack_marlin(const TensorView& b, const TensorView& s, int64_t group_size, const std::string& name,
                              Codes codes = Codes::kRead);

}  // namespace metal_marlin

// MLX's affine quantization, as mlx.core.quantize and mlx-lm write and read it.
//
// Purpose: models on Apple silicon. Notation: N = out_features, K = in_features, g = group size, G = K / g; b bits,
// codes q in 0..2^b - 1.
//
//   weight  U32 [N, b K/32]       row n is the stream of bits (pack/bits/row_stream.h) of q[n, 0], q[n, 1], ..
//   scales  F16 or BF16 [N, G]    s, of any sign
//   biases  like scales [N, G]    m
//
//   w[n, k] = q[n, k] * s[n, j] + m[n, j],  j = k / g
//
// A grid with zeros z has m = -z s, where the type holds that product exactly; with z = 2^(b-1) it always does but for
// overflow.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "core/values.h"
#include "pack/packed_tensor.h"

namespace metal_marlin {

inline constexpr std::array<int, 6> kMlxWidths = {2, 3, 4, 5, 6, 8};

// Parts "weight", "scales", "biases". ArgumentError naming `name` for groups other than 32, 64 and 128, act order, and
// a product of zero and scale that the scales' type does not hold exactly.
PackedTensor pack_mlx(const QuantizedTensor& tensor, const std::string& name);
// Why pack_mlx would refuse the zeros of this tensor (codes are not looked at): "the bias of output channel 3, group 1
// would be -7 * 0.0123, which float16 does not hold"; empty: it would not.
std::string inexact_bias(const QuantizedTensor& tensor);

// The inverse. Where every bias is -z s for a code z, the result has zeros, else minima. FormatError naming the tensor,
// what was expected and what was found; UnsupportedError for scales in 32 bits that 16 do not hold.
QuantizedTensor unpack_mlx(const TensorView& weight, const TensorView& scales, const TensorView& biases,
                           int64_t group_size, int bits, const std::string& name, Codes codes = Codes::kRead);

}  // namespace metal_marlin

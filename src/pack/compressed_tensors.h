// compressed-tensors "pack-quantized", as llm-compressor writes it and vLLM, SGLang and transformers read it.
//
// Purpose: the checkpoint of the vLLM project. Integers of 2 to 8 bits in groups or one group per row, symmetric or
// with zero points. Notation: N = out_features, K = in_features, g = group size, G = K / g; b bits, codes q, zeros z in
// 0..2^b - 1 (the package speaks of signed integers, which are q - 2^(b-1)).
//
//   weight_packed      I32 [N, ceil(b K/32)]  row n is the stream of bits (pack/bits/row_stream.h) of q[n, 0], q[n, 1],
//   .. weight_scale       F16 or BF16 [N, G]     s weight_shape       I64 [2]                N, K weight_zero_point I32
//   [ceil(b N/32), G]  column j is the stream of bits of z[0, j], z[1, j], ..; not there where
//                                             every z is 2^(b-1)
//
//   w[n, k] = (q[n, k] - z[n, j]) * s[n, j],  j = k / g
//
// Padding at the end of a row or column is zeros. Earlier versions of the package padded each word at 3, 5, 6 and 7
// bits; since 2026 streams are dense at every width.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "core/values.h"
#include "pack/packed_tensor.h"

namespace metal_marlin {

inline constexpr std::array<int, 7> kCompressedTensorsWidths = {2, 3, 4, 5, 6, 7, 8};

// Parts "weight_packed", "weight_scale", "weight_shape", and "weight_zero_point" unless `tensor.symmetric`.
// ArgumentError naming `name` for groups that do not divide K, act order, minima, and a symmetric tensor with another
// zero.
PackedTensor pack_compressed_tensors(const QuantizedTensor& tensor, const std::string& name);

// The inverse; zero_point null: symmetric. group_size < 0: the whole row. FormatError naming the tensor, what was
// expected and what was found, for types, shapes, and scales that are not finite; UnsupportedError for scales in 32
// bits that 16 do not hold. `symmetric` is true when every zero is 2^(b-1). Codes::kSkip leaves the codes out.
QuantizedTensor unpack_compressed_tensors(const TensorView& packed, const TensorView& scale, const TensorView& shape,
                                          const TensorView* zero_point, int64_t group_size, int bits,
                                          const std::string& name, Codes codes = Codes::kRead);

// Codes of 8 bits that are stored as the numbers that they stand for (int-quantized and naive-quantized), each code and
// zero less 128:
//
//   weight             I8 [N, K]
//   weight_scale       F16, BF16 or F32 [N, G], [N] or one for the whole weight: [1] or []
//   weight_zero_point  I8 like weight_scale; null: symmetric
//
// group_size < 0: the whole row. Errors as above.
QuantizedTensor unpack_int_quantized(const TensorView& weight, const TensorView& scale, const TensorView* zero_point,
                                     int64_t group_size, const std::string& name, Codes codes = Codes::kRead);

// [N, K] of a weight's shape that is stored as the part `what`. FormatError unless it is two positive numbers.
std::array<int64_t, 2> read_weight_shape(const TensorView& shape, const std::string& name,
                                         const char* what = "weight_shape");

}  // namespace metal_marlin

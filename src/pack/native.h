// The native layout, version 1.
//
// Purpose: the checkpoint that this project reads back without any loss, with optional per-input-channel scales.
// Notation: N = out_features, K = in_features, g = group size, G = K / g, j = k / g; codes q, zeros z in 0..15.
//
//   weight         U32 [K/8, N]   nibble i (i = 0 the lowest) of word [r, n] is q[n, 8r + i]
//   weight.scales  F16 [G, N]     s
//   weight.zeros   F16 [G, N]     z - 8, an integer in -8..7; +0 everywhere when symmetric
//   weight.q_scale F16 [K]        per input channel, > 0; absent: 1
//
// weight's words are pictured in pack/words_along_in.h; GPTQ's are the same.
//
//   w[n, k] = (float(q - 8 - zeros[j, n]) * float(s[j, n])) / float(q_scale[k])       f32, in this order
//
// Why this order: the words of one row lie side by side along n, so a kernel that owns a run of output columns loads
// whole lines and gets eight consecutive k of each column, all of one group; the nibble holds the signed code + 8, so
// that code -8 survives (the layout's ancestor added 7 and lost it).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/values.h"
#include "pack/packed_tensor.h"

namespace metal_marlin {

// Parts "weight", "weight.scales", "weight.zeros" and, when given, "weight.q_scale" (f16 bits, [in_features], passed
// through). Throws ArgumentError naming `name` unless bits == 4, K % 8 == 0, K % g == 0 and q_scale fits.
PackedTensor pack_native(const QuantizedTensor& tensor, const std::string& name,
                         std::span<const uint16_t> q_scale = {});
// The same into `out`, whose buffers are kept where their sizes fit.
void pack_native(const QuantizedTensor& tensor, const std::string& name, std::span<const uint16_t> q_scale,
                 PackedTensor& out);

// Inverse. `name` is for messages. group_size < 0: the whole row. Throws FormatError naming tensor, expected and found:
// dtypes, shapes, scales that are not finite, zeros that are no integers in -8..7.
// `symmetric` of the result is true when every zero is 8. Without `codes` the codes are left out.
QuantizedTensor unpack_native(const TensorView& weight, const TensorView& scales, const TensorView& zeros,
                              int64_t group_size, const std::string& name, Codes codes = Codes::kRead);

// f32 [in_features] of a q_scale tensor; FormatError unless F16 [in_features], finite and > 0.
std::vector<float> unpack_q_scale(const TensorView& q_scale, int64_t in_features, const std::string& name);

}  // namespace metal_marlin

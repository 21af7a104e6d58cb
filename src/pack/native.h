// The native layout: version 1 at 4 bits, version 2 at 3, 4 or 8 bits, each linear with its own.
//
// Purpose: the checkpoint that this project reads back without any loss, with optional per-input-channel scales.
// Notation: N = out_features, K = in_features, g = group size, G = K / g, j = k / g; b bits, codes q, zeros z in
// 0..2^b - 1, h = 2^(b-1).
//
//   weight         U32 [b K/32, N]   column n is the stream of bits of q[n, 0], q[n, 1], ..
//   weight.scales  F16 [G, N]        s
//   weight.zeros   F16 [G, N]        z - h, an integer in -h..h - 1; +0 everywhere when symmetric
//   weight.q_scale F16 [K]           per input channel, > 0; absent: 1
//
// weight's words are pictured in pack/bits/words_along_in.h and pack/bits/bit_runs.h; GPTQ's are the same. At 4 bits
// nibble i (i = 0 the lowest) of word [r, n] is q[n, 8r + i].
//
//   w[n, k] = (float(q - h - zeros[j, n]) * float(s[j, n])) / float(q_scale[k])       f32, in this order
//
// Why this order: the words of one row lie side by side along n, so a kernel that owns a run of output columns loads
// whole lines and gets consecutive k of each column, all of one group. A code is the signed code + h, so that code -8
// can be stored (the layout's ancestor added 7 and lost it).
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/values.h"
#include "pack/packed_tensor.h"

namespace metal_marlin {

inline constexpr std::array<int, 3> kNativeWidths = {3, 4, 8};  // bits of a code

// Parts "weight", "weight.scales", "weight.zeros" and, when given, "weight.q_scale" (f16 bits, [in_features], passed
// through). Throws ArgumentError naming `name` unless bits is one of kNativeWidths, K a multiple of run_codes(bits) (8
// at 4 bits, 32 at 3, 4 at 8), K % g == 0 and q_scale fits.
PackedTensor pack_native(const QuantizedTensor& tensor, const std::string& name,
                         std::span<const uint16_t> q_scale = {});
// The same into `out`. Its buffers are used again where their sizes fit.
void pack_native(const QuantizedTensor& tensor, const std::string& name, std::span<const uint16_t> q_scale,
                 PackedTensor& out);

// The inverse. `name` is for messages. group_size < 0: the whole row. Throws FormatError naming the tensor, what was
// expected and what was found, for dtypes, shapes, scales that are not finite, zeros that are no integers in -h..h - 1,
// and bits that the layout cannot hold. `symmetric` of the result is true when every zero is h. Codes::kSkip leaves the
// codes out.
QuantizedTensor unpack_native(const TensorView& weight, const TensorView& scales, const TensorView& zeros,
                              int64_t group_size, const std::string& name, Codes codes = Codes::kRead, int bits = 4);

// Returns the f32 [in_features] of a q_scale tensor. Throws FormatError unless it is F16 [in_features], finite and > 0.
std::vector<float> unpack_q_scale(const TensorView& q_scale, int64_t in_features, const std::string& name);

}  // namespace metal_marlin

// GPTQ, as AutoGPTQ and GPTQModel write it; versions 1 ("gptq") and 2 ("gptq_v2").
//
// Purpose: the checkpoint of the GPTQ family of tools, which transformers, vLLM and SGLang read. It has 2, 4 or 8 bits,
// in version 2 also 3. (At 3 bits a zero may lie across two words, and readers of version 1 differ in how they add the
// one back.) Notation: N = out_features, K = in_features, g = group size, G = ceil(K / g); b bits, codes q, zeros z in
// 0..2^b - 1.
//
//   qweight I32 [b K/32, N]  column n is the stream of bits (pack/bits/bit_runs.h) of q[n, 0], q[n, 1], .. (as in the
//   native
//                            layout); at 4 bits: nibble i (i = 0 the lowest) of word [r, n] is q[n, 8r + i]
//   qzeros  I32 [G, b N/32]  version 2: row j is the stream of bits of z[0, j], z[1, j], ..;
//                            at 4 bits: nibble i of word [j, c] is z[8c + i, j];
//                            version 1: the word of version 2 minus 0x11111111 (2 bits: 0x55555555, 8: 0x01010101), so
//                            that nibble i is z - 1 where every z of the word is at least 1
//   scales  F16 [G, N]     s
//   g_idx   I32 [K]        group j of input channel k; k / g unless GPTQ ran with act order
//
//   qweight, column n:  row 0    row 1     ...      qzeros, group j:   bit 31                                0
//                      +------+ +-------+                             +------+------+-- ... --+------+------+
//                      |k7..k0| |k15..k8|                  word [j,c] |n=8c+7|n=8c+6|         |n=8c+1|n=8c  |
//                      +------+ +-------+                             +------+------+-- ... --+------+------+
//
//   w[n, k] = (q - z[n, j]) * s[j, n],  j = g_idx[k]
//
// Act order: input channels keep their natural order; only g_idx scatters them over the groups. So a reader needs only
// g_idx, and a layout without g_idx cannot hold such a tensor.
//
// Why minus one: the first kernels stored z - 1 and added the one back. A zero of 0 then has no nibble. Where 1 is
// subtracted from the whole word, it borrows from the next nibbles; GPTQModel adds 0x11111111 to the word, which undoes
// that. Where it is subtracted from the nibble, it wraps to 15, which readers that work nibble by nibble take for 16.
// Such words are read here as GPTQModel reads them, and never written.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "core/values.h"
#include "pack/packed_tensor.h"

namespace metal_marlin {

enum class GptqVersion : uint8_t { kV1, kV2 };

std::span<const int> gptq_widths(GptqVersion version) noexcept;  // bits of a code

// Parts "qweight", "qzeros", "scales", "g_idx". A short last group is allowed. Throws ArgumentError naming `name`
// unless bits is one of gptq_widths, K and N multiples of run_codes(bits) (16 at 2 bits, 8 at 4, 4 at 8, 32 at 3); for
// version 1 also where a zero is 0 (naming the first).
PackedTensor pack_gptq(const QuantizedTensor& tensor, const std::string& name, GptqVersion version);
// The same into `out`. Its buffers are used again where their sizes fit.
void pack_gptq(const QuantizedTensor& tensor, const std::string& name, GptqVersion version, PackedTensor& out);

// The inverse. `g_idx` null: k / g. group_size < 0: the whole row. Throws FormatError naming the tensor, what was
// expected and what was found, for dtypes (U32 counts as I32), shapes, scales that are not finite, and groups out of
// range. group_index of the result is empty where g_idx says k / g. `symmetric` is true when every zero is 2^(bits-1).
// Codes::kSkip leaves the codes out and reads only groups, scales and zeros.
QuantizedTensor unpack_gptq(const TensorView& qweight, const TensorView& qzeros, const TensorView& scales,
                            const TensorView* g_idx, int64_t group_size, GptqVersion version, const std::string& name,
                            Codes codes = Codes::kRead, int bits = 4);

}  // namespace metal_marlin

// Codes [out, in] to and from words of eight consecutive input channels, the form that the native layout and GPTQ share.
//
//   words U32 [in/8, out]   nibble i (i = 0 the lowest) of word [r, n] is q[n, 8r + i]
//
//                    n = 0      1      2  ...  N-1
//   row r = 0      +------+------+------+---------+
//   (k = 0..7)     | k7..k0 of column n, 4 bits each |   one 32-bit word per (r, n), k = 0 in the low nibble
//   row r = 1      +------+------+------+---------+
//   (k = 8..15)    | ...                             |
#pragma once

#include <cstddef>
#include <cstdint>

namespace metal_marlin {

// `codes` [out, in], in a multiple of 8; `words` of 4 * in/8 * out bytes, written whole. Returns false when some code is
// above 15. Parallel over fixed tiles.
bool pack_along_in(const uint8_t* codes, int64_t out_features, int64_t in_features, std::byte* words);
// Inverse; any bytes are words.
void unpack_along_in(const std::byte* words, int64_t out_features, int64_t in_features, uint8_t* codes);

}  // namespace metal_marlin

// Codes [out, in] to and from words of consecutive input channels, the form that the native layout and GPTQ share. Each
// column of words is the stream of bits of one output channel (pack/bits/bit_runs.h).
//
//   words U32 [in bits/32, out]   at 4 bits: nibble i (i = 0 the lowest) of word [r, n] is q[n, 8r + i];
//                                 at 8 bits: byte i of word [r, n] is q[n, 4r + i];
//                                 at 3 bits: words [3r .. 3r + 2, n] hold q[n, 32r .. 32r + 31]
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

// `codes` is [out, in]; in must be a multiple of run_codes(bits), and bits 1 to 8. `words` must have 4 * in bits/32 *
// out bytes, all of which are written. Returns false when some code is 2^bits or above. Runs in parallel over fixed
// tiles.
bool pack_along_in(const uint8_t* codes, int64_t out_features, int64_t in_features, int bits, std::byte* words);
// The inverse. Any bytes are valid words.
void unpack_along_in(const std::byte* words, int64_t out_features, int64_t in_features, int bits, uint8_t* codes);

}  // namespace metal_marlin

// Codes [out, in] to and from rows of bits: the form of MLX and compressed-tensors, and of this project's journal. Each
// row is one little-endian stream of bits, padded with zeros to whole words.
//
//   words U32 [out, ceil(in bits / 32)]   bit i of row n's stream is bit i mod 32 of word [n, i div 32];
//                                         bits b k .. b k + b - 1 of the stream are q[n, k]
//
//                    word 0                    word 1
//   4 bits:  bit 31 | k7 k6 k5 k4 k3 k2 k1 k0 | k15 ..      k8 |
//   3 bits:  k10 lies across words 0 and 1, k21 across 1 and 2, as in pack/bits/bit_runs.h
//
// At 4 and 8 bits these words are the transpose of those that GPTQ and the native layout have.
#pragma once

#include <cstddef>
#include <cstdint>

namespace metal_marlin {

// Words of a row.
constexpr int64_t row_words(int64_t in_features, int bits) noexcept {
  return in_features / 32 * bits + (in_features % 32 * bits + 31) / 32;
}

// `codes` is [out, in], bits 1 to 8; `words` has 4 * out * row_words(in, bits) bytes, all of which are written. Returns
// false when some code is 2^bits or above. Runs in parallel over rows.
bool pack_rows(const uint8_t* codes, int64_t out_features, int64_t in_features, int bits, std::byte* words);
// The inverse. Any bytes are valid words; bits of the padding are not looked at.
void unpack_rows(const std::byte* words, int64_t out_features, int64_t in_features, int bits, uint8_t* codes);

}  // namespace metal_marlin

// Rows of 4-bit codes as rows of words: the form of the arrays of mr_gptq.h and pack_gptq_int4, which no checkpoint
// has.
//
//   words U32 [rows, ceil(columns / 8)]   nibble i (i = 0 the lowest) of word [r, c] is codes[r, 8c + i]
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace metal_marlin {

// codes [rows, columns], each below 16. padding [rows]: the code behind the last column; empty: 0. All words are
// written.
void pack_nibble_rows(const uint8_t* codes, int64_t rows, int64_t columns, std::span<const uint8_t> padding,
                      uint32_t* words);
// The inverse, without the padding.
std::vector<uint8_t> unpack_nibble_rows(const uint32_t* words, int64_t rows, int64_t columns);

}  // namespace metal_marlin

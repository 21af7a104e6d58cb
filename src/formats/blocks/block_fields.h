// The numbers that blocks of ggml types are made of, and the bytes that hold them, in both directions. What the values
// are is in formats/gguf_blocks.h; here nothing is computed, so unpacking and packing give the same bytes again.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "formats/gguf_blocks.h"

namespace metal_marlin {

// How the values of a type follow from its numbers. Of each segment (elements that share a scale), in float32:
//   without levels   value = s (code - zero) + m     m only with `minima`
//   with levels      value = s kBlockLevels[code]
//   one scale        s = d, m = that of the block; a block is one segment
//   scales           s = d scale, m = -(dmin minimum) with 0 <= minimum <= 63; d, dmin of the block
struct BlockForm {
  GgmlType type;
  int64_t block;    // elements of a block
  int64_t bytes;    // bytes of a block
  int64_t segment;  // elements of a segment
  int bits;         // codes are below 2^bits
  int zero;         // of the codes
  bool minima;      // there is a second f16 number: m, or dmin
  bool levels;      // the codes are places in kBlockLevels
  int least_scale;  // of the integer scales; 1 with largest_scale 1: there are none
  int largest_scale;

  constexpr bool scales() const noexcept { return largest_scale > 1; }
  constexpr int64_t segments() const noexcept { return block / segment; }
};

inline constexpr int kLargestBlockMinimum = 63;

// The levels of IQ4_NL and IQ4_XS, ascending.
inline constexpr std::array<int8_t, 16> kBlockLevels = {-127, -104, -83, -65, -49, -35, -22, -10,
                                                        1,    13,   25,  38,  53,  69,  89,  113};

// Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS.
inline constexpr std::array kBlockForms = std::to_array<BlockForm>({
    {GgmlType::kQ4_0, 32, 18, 32, 4, 8, false, false, 1, 1},
    {GgmlType::kQ4_1, 32, 20, 32, 4, 0, true, false, 1, 1},
    {GgmlType::kQ5_0, 32, 22, 32, 5, 16, false, false, 1, 1},
    {GgmlType::kQ5_1, 32, 24, 32, 5, 0, true, false, 1, 1},
    {GgmlType::kQ8_0, 32, 34, 32, 8, 128, false, false, 1, 1},
    {GgmlType::kQ4_K, 256, 144, 32, 4, 0, true, false, 0, 63},
    {GgmlType::kQ5_K, 256, 176, 32, 5, 0, true, false, 0, 63},
    {GgmlType::kQ6_K, 256, 210, 16, 6, 32, false, false, -128, 127},
    {GgmlType::kIQ4_NL, 32, 18, 32, 4, 0, false, true, 1, 1},
    {GgmlType::kIQ4_XS, 256, 136, 32, 4, 0, false, true, -32, 31},
});
// Nothing for other types.
std::optional<BlockForm> block_form(GgmlType type) noexcept;

// The numbers of a run of blocks, in their order.
struct BlockFields {
  std::vector<uint8_t> codes;   // [blocks, block]
  std::vector<uint16_t> d;      // [blocks] bits of f16
  std::vector<uint16_t> m;      // [blocks] bits of f16: m or dmin; empty without minima
  std::vector<int8_t> scales;   // [blocks, segments]; empty for types without
  std::vector<uint8_t> minima;  // [blocks, segments]; empty for types without scales or minima

  // Of `blocks` blocks of a form, zeros.
  BlockFields() = default;
  BlockFields(const BlockForm& form, int64_t blocks);
};

// Writes the blocks first .. first + out.size() / form.bytes - 1, so that several threads can write parts of a tensor.
// ArgumentError: a type without form, sizes that disagree. Numbers beyond their bits are the caller's fault; they are
// cut to them.
void pack_blocks(GgmlType type, const BlockFields& fields, int64_t first, std::span<std::byte> out);
// All of them.
std::vector<std::byte> pack_blocks(GgmlType type, const BlockFields& fields);
// The numbers of whole blocks. Any bytes are blocks. ArgumentError as above.
BlockFields unpack_blocks(GgmlType type, std::span<const std::byte> blocks);

}  // namespace metal_marlin

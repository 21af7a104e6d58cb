// The element types of ggml and their blocks. d, m, dmin are f16; products in f32.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "core/dtype.h"

namespace metal_marlin {

struct GgmlTypeInfo {
  GgmlType type;
  std::string_view name;  // "Q4_K"
  int64_t block;          // elements of a block
  int64_t bytes;          // bytes of a block
  bool can_dequantize;    // by dequantize_blocks
};
// Returns nothing for an unknown id.
std::optional<GgmlTypeInfo> ggml_type_info(uint32_t type) noexcept;
GgmlTypeInfo ggml_type_info(GgmlType type) noexcept;

// Writes `count` elements (a multiple of the block length) from `blocks` into out[0 .. count). The types are F32, F16,
// BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K .. Q6_K, IQ4_NL and IQ4_XS. The values equal those of gguf-py's dequantize
// bit for bit. Blocks are independent, so a caller may cut a tensor at any block and work on the pieces from several
// threads. Throws UnsupportedError (type) and ArgumentError (count, size of blocks).
void dequantize_blocks(GgmlType type, std::span<const std::byte> blocks, float* out, int64_t count);

// How blocks of codes are made: value = (code - zero) * scale, plus the minimum where there are minima, with a scale
// and a minimum for each `segment` elements.
struct GgmlCodes {
  int64_t segment;
  int bits;  // codes are below 16 (4) or 256 (8)
  int zero;  // of every code
  bool minima;
  bool f16_scales;  // scales and minima are f16 numbers of the file; else products of two, in float32
};
// Nothing for F32, F16, BF16 and types that cannot be dequantized.
std::optional<GgmlCodes> ggml_codes(GgmlType type) noexcept;
// Writes the codes of `count` elements, and the scales and minima of their segments, as float or the bits of f16 as
// `f16_scales` says. `minima` may be null for a type that has none. The values that they stand for are those of
// dequantize_blocks(), bit for bit. Errors as there; UnsupportedError where ggml_codes() has nothing.
void decode_blocks(GgmlType type, std::span<const std::byte> blocks, int64_t count, uint8_t* codes, void* scales,
                   void* minima);

// Whether dequantize_blocks() would write finite values alone. Of quantized types it reads the f16 scales and minima of
// each block only: the values are finite where those are, and nowhere else. `data` is whole blocks. UnsupportedError
// for types that cannot be dequantized.
bool blocks_are_finite(GgmlType type, std::span<const std::byte> data);

}  // namespace metal_marlin

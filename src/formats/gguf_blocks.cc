#include "formats/gguf_blocks.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "core/counted.h"
#include "core/half.h"

namespace metal_marlin {
namespace {

constexpr std::array kTypes = std::to_array<GgmlTypeInfo>({
    {GgmlType::kF32, "F32", 1, 4, true},
    {GgmlType::kF16, "F16", 1, 2, true},
    {GgmlType::kQ4_0, "Q4_0", 32, 18, true},
    {GgmlType::kQ4_1, "Q4_1", 32, 20, true},
    {GgmlType::kQ5_0, "Q5_0", 32, 22, true},
    {GgmlType::kQ5_1, "Q5_1", 32, 24, true},
    {GgmlType::kQ8_0, "Q8_0", 32, 34, true},
    {GgmlType::kQ2_K, "Q2_K", 256, 84, true},
    {GgmlType::kQ3_K, "Q3_K", 256, 110, true},
    {GgmlType::kQ4_K, "Q4_K", 256, 144, true},
    {GgmlType::kQ5_K, "Q5_K", 256, 176, true},
    {GgmlType::kQ6_K, "Q6_K", 256, 210, true},
    {GgmlType::kIQ2_XXS, "IQ2_XXS", 256, 66, false},
    {GgmlType::kIQ2_XS, "IQ2_XS", 256, 74, false},
    {GgmlType::kIQ3_XXS, "IQ3_XXS", 256, 98, false},
    {GgmlType::kIQ1_S, "IQ1_S", 256, 50, false},
    {GgmlType::kIQ4_NL, "IQ4_NL", 32, 18, true},
    {GgmlType::kIQ3_S, "IQ3_S", 256, 110, false},
    {GgmlType::kIQ2_S, "IQ2_S", 256, 82, false},
    {GgmlType::kIQ4_XS, "IQ4_XS", 256, 136, true},
    {GgmlType::kI8, "I8", 1, 1, false},
    {GgmlType::kI16, "I16", 1, 2, false},
    {GgmlType::kI32, "I32", 1, 4, false},
    {GgmlType::kI64, "I64", 1, 8, false},
    {GgmlType::kF64, "F64", 1, 8, false},
    {GgmlType::kIQ1_M, "IQ1_M", 256, 56, false},
    {GgmlType::kBF16, "BF16", 1, 2, true},
    {GgmlType::kTQ1_0, "TQ1_0", 256, 54, false},
    {GgmlType::kTQ2_0, "TQ2_0", 256, 66, false},
    {GgmlType::kMXFP4, "MXFP4", 32, 17, false},
});

using Bytes = const uint8_t*;

uint16_t u16_at(Bytes p) noexcept {
  uint16_t v = 0;
  std::memcpy(&v, p, sizeof v);
  return v;
}
uint32_t u32_at(Bytes p) noexcept {
  uint32_t v = 0;
  std::memcpy(&v, p, sizeof v);
  return v;
}
float half_at(Bytes p) noexcept {
  return f16_to_f32(u16_at(p));
}

// Of each type of block: the codes of its elements, and the scales and minima of its segments where they are more than
// the f16 numbers of the block. Codes that are kept in a byte stand for themselves less 128.
using BlockCodes = void (*)(Bytes block, uint8_t* __restrict codes) noexcept;
using BlockScales = void (*)(Bytes block, float* scales, float* minima) noexcept;

// Blocks of 32: byte i of the 16 bytes of nibbles holds element i in its low half and element i + 16 in its high one.
void nibbles(Bytes from, uint8_t* __restrict codes) noexcept {
  for (int i = 0; i < 16; ++i) {
    codes[i] = from[i] & 15;
    codes[i + 16] = from[i] >> 4;
  }
}

// Adds to each of 8 bytes 16 where the bit of its number is set in `bits`.
uint64_t fifth_bits(uint64_t bits) noexcept {
  constexpr uint64_t kOnes = 0x0101010101010101;
  const uint64_t apart = (bits * kOnes) & 0x8040201008040201;  // byte i holds bit i alone
  return ((apart + 0x7f * kOnes) & (0x80 * kOnes)) >> 3;       // whatever is set there carries into the highest bit
}
// Fifth bits: bit e of 32 belongs to element e. The codes come plus `lift`.
void nibbles_and_fifth(Bytes from, Bytes fifth, uint8_t lift, uint8_t* __restrict codes) noexcept {
  nibbles(from, codes);
  for (int i = 0; i < 4; ++i) {
    uint64_t eight = 0;
    std::memcpy(&eight, codes + 8 * i, 8);
    eight += fifth_bits(fifth[i]) + lift * uint64_t{0x0101010101010101};
    std::memcpy(codes + 8 * i, &eight, 8);
  }
}

// d, nibbles
void q4_0(Bytes b, uint8_t* codes) noexcept {
  nibbles(b + 2, codes);
}
// d, m, nibbles
void q4_1(Bytes b, uint8_t* codes) noexcept {
  nibbles(b + 4, codes);
}
// d, u32 of fifth bits, nibbles
void q5_0(Bytes b, uint8_t* codes) noexcept {
  nibbles_and_fifth(b + 6, b + 2, 128 - 16, codes);
}
// d, m, u32 of fifth bits, nibbles
void q5_1(Bytes b, uint8_t* codes) noexcept {
  nibbles_and_fifth(b + 8, b + 4, 128, codes);
}
// d, 32 x i8
void q8_0(Bytes b, uint8_t* codes) noexcept {
  for (int i = 0; i < 32; ++i) codes[i] = b[2 + i] ^ 0x80;
}

// Blocks of 256. Element e = 128 h + 32 p + l; sub-blocks of 16 have number e / 16.

// 16 bytes (scale | minimum << 4), 64 bytes of 2-bit codes: byte 32 h + l, bits 2p and 2p + 1; d, dmin
void q2_k(Bytes b, uint8_t* __restrict codes) noexcept {
  for (int h = 0; h < 2; ++h) {
    for (int p = 0; p < 4; ++p) {
      for (int l = 0; l < 32; ++l) codes[128 * h + 32 * p + l] = (b[16 + 32 * h + l] >> (2 * p)) & 3;
    }
  }
}
void q2_k_scales(Bytes b, float* scales, float* minima) noexcept {
  const float d = half_at(b + 80);
  const float dmin = half_at(b + 82);
  for (int s = 0; s < 16; ++s) {
    scales[s] = d * static_cast<float>(b[s] & 15);
    minima[s] = -(dmin * static_cast<float>(b[s] >> 4));
  }
}

// 32 bytes of third bits: byte l, bit 4 h + p (0: minus 4); 64 bytes of low bits as in Q2_K; 12 bytes of 6-bit scales
// plus 32: four low bits of scale s in nibble s / 8 of byte s % 8, two high bits in bits 2 (s / 4) of byte 8 + s % 4; d
void q3_k(Bytes b, uint8_t* __restrict codes) noexcept {
  for (int h = 0; h < 2; ++h) {
    for (int p = 0; p < 4; ++p) {
      for (int l = 0; l < 32; ++l) {
        const int low = (b[32 + 32 * h + l] >> (2 * p)) & 3;
        codes[128 * h + 32 * p + l] = static_cast<uint8_t>(low | ((b[l] >> (4 * h + p)) & 1) << 2);
      }
    }
  }
}
void q3_k_scales(Bytes b, float* scales, float*) noexcept {
  Bytes bits = b + 96;
  const float d = half_at(b + 108);
  for (int s = 0; s < 16; ++s) {
    const int low = (bits[s % 8] >> (4 * (s / 8))) & 15;
    const int high = (bits[8 + s % 4] >> (2 * (s / 4))) & 3;
    scales[s] = d * static_cast<float>((low | high << 4) - 32);
  }
}

// The 6-bit pairs of the 8 sub-blocks of 32 elements out of the 12 bytes of Q4_K and Q5_K, after d and dmin.
void q45_k_scales(Bytes b, float* scales, float* minima) noexcept {
  const float d = half_at(b);
  const float dmin = half_at(b + 2);
  Bytes pairs = b + 4;
  for (int t = 0; t < 4; ++t) {
    scales[t] = d * static_cast<float>(pairs[t] & 63);
    minima[t] = -(dmin * static_cast<float>(pairs[t + 4] & 63));
    scales[t + 4] = d * static_cast<float>((pairs[t + 8] & 15) | (pairs[t] >> 6) << 4);
    minima[t + 4] = -(dmin * static_cast<float>((pairs[t + 8] >> 4) | (pairs[t + 4] >> 6) << 4));
  }
}

// d, dmin, 12 bytes of scales, 128 bytes: sub-block t in bytes 32 (t / 2) .., low nibble for even t
void q4_k(Bytes b, uint8_t* __restrict codes) noexcept {
  for (int t = 0; t < 8; t += 2) {
    for (int i = 0; i < 32; ++i) {
      codes[32 * t + i] = b[16 + 16 * t + i] & 15;
      codes[32 * t + 32 + i] = b[16 + 16 * t + i] >> 4;
    }
  }
}

// as Q4_K, with 32 bytes of fifth bits (byte l, bit t) before the codes
void q5_k(Bytes b, uint8_t* __restrict codes) noexcept {
  for (int t = 0; t < 8; ++t) {
    for (int i = 0; i < 32; ++i) {
      const int low = (b[48 + 32 * (t / 2) + i] >> (4 * (t % 2))) & 15;
      codes[32 * t + i] = static_cast<uint8_t>((low | ((b[16 + i] >> t) & 1) << 4) + 128);
    }
  }
}

// 128 bytes: byte 64 h + 32 (p & 1) + l, low nibble for p < 2; 64 bytes of high bits: byte 32 h + l, bits 2p; 16 x i8;
// d
void q6_k(Bytes b, uint8_t* __restrict codes) noexcept {
  for (int h = 0; h < 2; ++h) {
    for (int p = 0; p < 4; ++p) {
      for (int l = 0; l < 32; ++l) {
        const int low = (b[64 * h + 32 * (p % 2) + l] >> (p < 2 ? 0 : 4)) & 15;
        const int high = (b[128 + 32 * h + l] >> (2 * p)) & 3;
        codes[128 * h + 32 * p + l] = static_cast<uint8_t>((low | high << 4) - 32 + 128);
      }
    }
  }
}
void q6_k_scales(Bytes b, float* scales, float*) noexcept {
  const float d = half_at(b + 208);
  for (int s = 0; s < 16; ++s) scales[s] = d * static_cast<float>(static_cast<int8_t>(b[192 + s]));
}

// The 16 levels of IQ4_NL and IQ4_XS plus 128: -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89,
// 113.
constexpr std::array<uint8_t, 16> kNonLinear = {1,   24,  45,  63,  79,  93,  106, 118,
                                                129, 141, 153, 166, 181, 197, 217, 241};
void levels(Bytes from, uint8_t* __restrict codes) noexcept {
  for (int i = 0; i < 16; ++i) {
    codes[i] = kNonLinear[from[i] & 15];
    codes[i + 16] = kNonLinear[from[i] >> 4];
  }
}

// d, nibbles
void iq4_nl(Bytes b, uint8_t* codes) noexcept {
  levels(b + 2, codes);
}
// d, u16 of high scale bits, 4 bytes of low scale bits, 8 sub-blocks of 16 bytes as in IQ4_NL
void iq4_xs(Bytes b, uint8_t* codes) noexcept {
  for (int t = 0; t < 8; ++t) levels(b + 8 + 16 * t, codes + 32 * t);
}
void iq4_xs_scales(Bytes b, float* scales, float*) noexcept {
  const float d = half_at(b);
  const int high = u16_at(b + 2);
  for (int t = 0; t < 8; ++t) {
    const int low = (b[4 + t / 2] >> (4 * (t & 1))) & 15;
    scales[t] = d * static_cast<float>((low | ((high >> (2 * t)) & 3) << 4) - 32);
  }
}

template <BlockCodes Block, int64_t Elements, int64_t Size>
void codes_of(Bytes p, int64_t blocks, uint8_t* codes) noexcept {
  for (int64_t i = 0; i < blocks; ++i) Block(p + i * Size, codes + i * Elements);
}
template <BlockScales Block, int64_t Segments, int64_t Size>
void scales_of(Bytes p, int64_t blocks, float* scales, float* minima) noexcept {
  for (int64_t i = 0; i < blocks; ++i)
    Block(p + i * Size, scales + i * Segments, minima == nullptr ? nullptr : minima + i * Segments);
}

// Where a block has its f16 numbers, of which all of its values are products and sums; and what is made of a run of
// blocks. Types whose scales are f16 have one segment to a block and no function for them.
struct CodedType {
  GgmlType type;
  GgmlCodes form;
  int64_t d;
  int64_t m;
  void (*codes)(Bytes p, int64_t blocks, uint8_t* codes) noexcept;
  void (*scales)(Bytes p, int64_t blocks, float* scales, float* minima) noexcept;
};
template <BlockCodes Block, int64_t Size>
constexpr auto kCodes32 = codes_of<Block, 32, Size>;
template <BlockCodes Block, int64_t Size>
constexpr auto kCodes256 = codes_of<Block, 256, Size>;
constexpr CodedType kCoded[] = {
    {GgmlType::kQ4_0, {32, 4, 8, false, true}, 0, 0, kCodes32<q4_0, 18>, nullptr},
    {GgmlType::kQ4_1, {32, 4, 0, true, true}, 0, 2, kCodes32<q4_1, 20>, nullptr},
    {GgmlType::kQ5_0, {32, 8, 128, false, true}, 0, 0, kCodes32<q5_0, 22>, nullptr},
    {GgmlType::kQ5_1, {32, 8, 128, true, true}, 0, 2, kCodes32<q5_1, 24>, nullptr},
    {GgmlType::kQ8_0, {32, 8, 128, false, true}, 0, 0, kCodes32<q8_0, 34>, nullptr},
    {GgmlType::kQ2_K, {16, 4, 0, true, false}, 80, 82, kCodes256<q2_k, 84>, scales_of<q2_k_scales, 16, 84>},
    {GgmlType::kQ3_K, {16, 4, 4, false, false}, 108, 108, kCodes256<q3_k, 110>, scales_of<q3_k_scales, 16, 110>},
    {GgmlType::kQ4_K, {32, 4, 0, true, false}, 0, 2, kCodes256<q4_k, 144>, scales_of<q45_k_scales, 8, 144>},
    {GgmlType::kQ5_K, {32, 8, 128, true, false}, 0, 2, kCodes256<q5_k, 176>, scales_of<q45_k_scales, 8, 176>},
    {GgmlType::kQ6_K, {16, 8, 128, false, false}, 208, 208, kCodes256<q6_k, 210>, scales_of<q6_k_scales, 16, 210>},
    {GgmlType::kIQ4_NL, {32, 8, 128, false, true}, 0, 0, kCodes32<iq4_nl, 18>, nullptr},
    {GgmlType::kIQ4_XS, {32, 8, 128, false, false}, 0, 0, kCodes256<iq4_xs, 136>, scales_of<iq4_xs_scales, 8, 136>},
};

const CodedType* coded(GgmlType type) noexcept {
  for (const CodedType& c : kCoded) {
    if (c.type == type) return &c;
  }
  return nullptr;
}

// A segment of values of its codes.
template <bool Minima>
void values_of(const uint8_t* __restrict codes, int64_t count, int zero, float scale, float minimum,
               float* __restrict out) noexcept {
  for (int64_t i = 0; i < count; ++i) {
    const float value = scale * static_cast<float>(codes[i] - zero);
    out[i] = Minima ? value + minimum : value;
  }
}

void dequantize_codes(const CodedType& type, const GgmlTypeInfo& info, Bytes p, float* out, int64_t count) noexcept {
  constexpr int64_t kAtOnce = 2048;  // they stay in the first cache
  constexpr int64_t kLeastSegment = 16;
  std::array<uint8_t, kAtOnce> codes;
  std::array<float, kAtOnce / kLeastSegment> scales;
  std::array<float, kAtOnce / kLeastSegment> minima;
  const int64_t segment = type.form.segment;
  for (int64_t first = 0; first < count; first += kAtOnce) {
    const int64_t n = std::min(kAtOnce, count - first);
    const int64_t blocks = n / info.block;
    type.codes(p, blocks, codes.data());
    if (type.scales != nullptr) {
      type.scales(p, blocks, scales.data(), minima.data());
    } else {
      for (int64_t b = 0; b < blocks; ++b) {
        scales[static_cast<size_t>(b)] = half_at(p + b * info.bytes + type.d);
        minima[static_cast<size_t>(b)] = half_at(p + b * info.bytes + type.m);
      }
    }
    for (int64_t s = 0; s < n / segment; ++s) {
      const auto at = static_cast<size_t>(s);
      (type.form.minima ? values_of<true> : values_of<false>)(codes.data() + s * segment, segment, type.form.zero,
                                                              scales[at], minima[at], out + first + s * segment);
    }
    p += blocks * info.bytes;
  }
}

// GgmlTypeInfo of blocks that are asked for as values or codes. ArgumentError unless `data` is `count` elements.
void check_blocks(const GgmlTypeInfo& info, std::span<const std::byte> data, int64_t count) {
  if (count < 0 || count % info.block != 0 || data.size() != static_cast<uint64_t>(count / info.block * info.bytes)) {
    throw ArgumentError(fmt::format("{} of {} in {}: expected blocks of {} in {}", counted(count, "element"), info.name,
                                    counted(data.size(), "byte"), counted(info.block, "element"),
                                    counted(info.bytes, "byte")));
  }
}

}  // namespace

std::optional<GgmlTypeInfo> ggml_type_info(uint32_t type) noexcept {
  for (const GgmlTypeInfo& info : kTypes) {
    if (static_cast<uint32_t>(info.type) == type) return info;
  }
  return std::nullopt;
}

GgmlTypeInfo ggml_type_info(GgmlType type) noexcept {
  return ggml_type_info(static_cast<uint32_t>(type)).value_or(GgmlTypeInfo{type, "unknown", 1, 1, false});
}

void dequantize_blocks(GgmlType type, std::span<const std::byte> data, float* out, int64_t count) {
  const GgmlTypeInfo info = ggml_type_info(type);
  if (!info.can_dequantize) throw UnsupportedError(fmt::format("ggml type {} cannot be dequantized", info.name));
  check_blocks(info, data, count);
  const auto p = reinterpret_cast<Bytes>(data.data());
  if (const CodedType* c = coded(type)) return dequantize_codes(*c, info, p, out, count);
  switch (type) {
    case GgmlType::kF16:
      for (int64_t i = 0; i < count; ++i) out[i] = half_at(p + 2 * i);
      break;
    case GgmlType::kBF16:
      for (int64_t i = 0; i < count; ++i) out[i] = bf16_to_f32(u16_at(p + 2 * i));
      break;
    default:  // F32
      if (count > 0) std::memcpy(out, p, data.size());
      break;
  }
}

std::optional<GgmlCodes> ggml_codes(GgmlType type) noexcept {
  const CodedType* c = coded(type);
  return c == nullptr ? std::nullopt : std::optional(c->form);
}

void decode_blocks(GgmlType type, std::span<const std::byte> data, int64_t count, uint8_t* codes, void* scales,
                   void* minima) {
  const GgmlTypeInfo info = ggml_type_info(type);
  const CodedType* c = coded(type);
  if (c == nullptr) throw UnsupportedError(fmt::format("ggml type {} has no codes", info.name));
  check_blocks(info, data, count);
  const auto p = reinterpret_cast<Bytes>(data.data());
  const int64_t blocks = count / info.block;
  c->codes(p, blocks, codes);
  if (c->scales != nullptr) return c->scales(p, blocks, static_cast<float*>(scales), static_cast<float*>(minima));
  for (int64_t b = 0; b < blocks; ++b) static_cast<uint16_t*>(scales)[b] = u16_at(p + b * info.bytes + c->d);
  if (!c->form.minima) return;
  for (int64_t b = 0; b < blocks; ++b) static_cast<uint16_t*>(minima)[b] = u16_at(p + b * info.bytes + c->m);
}

namespace {

// Without a branch for each block: the largest exponents tell.
bool halves_are_finite(std::span<const std::byte> data, int64_t bytes, int64_t d, int64_t m) noexcept {
  const auto p = reinterpret_cast<Bytes>(data.data());
  constexpr unsigned kMagnitude = 0x7fff;
  constexpr unsigned kInfinity = 0x7c00;
  unsigned largest = 0;
  for (size_t b = 0; b < data.size(); b += static_cast<size_t>(bytes)) {
    const unsigned first = u16_at(p + b + d) & kMagnitude;
    const unsigned second = u16_at(p + b + m) & kMagnitude;
    largest = std::max({largest, first, second});
  }
  return largest < kInfinity;
}

}  // namespace

bool blocks_are_finite(GgmlType type, std::span<const std::byte> data) {
  const GgmlTypeInfo info = ggml_type_info(type);
  if (!info.can_dequantize) throw UnsupportedError(fmt::format("ggml type {} cannot be dequantized", info.name));
  if (const CodedType* c = coded(type)) return halves_are_finite(data, info.bytes, c->d, c->m);
  if (type == GgmlType::kF16) return halves_are_finite(data, info.bytes, 0, 0);
  const auto p = reinterpret_cast<Bytes>(data.data());
  const auto step = static_cast<size_t>(info.bytes);
  const uint32_t infinity = type == GgmlType::kBF16 ? 0x7f80 : 0x7f800000;
  uint32_t largest = 0;
  for (size_t i = 0; i < data.size(); i += step)
    largest = std::max(largest, type == GgmlType::kBF16 ? u16_at(p + i) & 0x7fffu : u32_at(p + i) & 0x7fffffffu);
  return largest < infinity;
}

}  // namespace metal_marlin

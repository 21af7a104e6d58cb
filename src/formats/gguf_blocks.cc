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

// The 16 levels of IQ4_NL and IQ4_XS.
constexpr std::array<float, 16> kNonLinear = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

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

// Blocks of 32: byte b of `codes` holds element b in its low nibble and element b + 16 in its high one.

void q4_0(Bytes b, float* out) noexcept {
  const float d = half_at(b);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>((b[2 + i] & 15) - 8);
    out[i + 16] = d * static_cast<float>((b[2 + i] >> 4) - 8);
  }
}

void q4_1(Bytes b, float* out) noexcept {
  const float d = half_at(b);
  const float m = half_at(b + 2);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>(b[4 + i] & 15) + m;
    out[i + 16] = d * static_cast<float>(b[4 + i] >> 4) + m;
  }
}

// d, u32 of fifth bits (bit e: element e), codes
void q5_0(Bytes b, float* out) noexcept {
  const float d = half_at(b);
  const uint32_t high = u32_at(b + 2);
  for (uint32_t i = 0; i < 16; ++i) {
    const uint32_t low_code = (b[6 + i] & 15u) | ((high >> i) & 1u) << 4;
    const uint32_t high_code = (b[6 + i] >> 4) | ((high >> (i + 16)) & 1u) << 4;
    out[i] = d * static_cast<float>(static_cast<int>(low_code) - 16);
    out[i + 16] = d * static_cast<float>(static_cast<int>(high_code) - 16);
  }
}

void q5_1(Bytes b, float* out) noexcept {
  const float d = half_at(b);
  const float m = half_at(b + 2);
  const uint32_t high = u32_at(b + 4);
  for (uint32_t i = 0; i < 16; ++i) {
    const uint32_t low_code = (b[8 + i] & 15u) | ((high >> i) & 1u) << 4;
    const uint32_t high_code = (b[8 + i] >> 4) | ((high >> (i + 16)) & 1u) << 4;
    out[i] = d * static_cast<float>(low_code) + m;
    out[i + 16] = d * static_cast<float>(high_code) + m;
  }
}

void q8_0(Bytes b, float* out) noexcept {
  const float d = half_at(b);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(static_cast<int8_t>(b[2 + i]));
}

// Blocks of 256. Element e = 128 h + 32 p + l; sub-blocks of 16 have number e / 16.

// 16 bytes (scale | minimum << 4), 64 bytes of 2-bit codes: byte 32 h + l, bits 2p and 2p + 1; d, dmin
void q2_k(Bytes b, float* out) noexcept {
  Bytes codes = b + 16;
  const float d = half_at(b + 80);
  const float dmin = half_at(b + 82);
  for (int s = 0; s < 16; ++s) {
    const float scale = d * static_cast<float>(b[s] & 15);
    const float minimum = dmin * static_cast<float>(b[s] >> 4);
    const int h = s / 8;
    const int p = s / 2 % 4;
    Bytes c = codes + 32 * h + 16 * (s & 1);
    for (int i = 0; i < 16; ++i) out[16 * s + i] = scale * static_cast<float>((c[i] >> (2 * p)) & 3) - minimum;
  }
}

// 32 bytes of third bits: byte l, bit 4 h + p (0: minus 4); 64 bytes of low bits as in Q2_K; 12 bytes of 6-bit scales
// plus 32: four low bits of scale s in nibble s / 8 of byte s % 8, two high bits in bits 2 (s / 4) of byte 8 + s % 4; d
void q3_k(Bytes b, float* out) noexcept {
  Bytes codes = b + 32;
  Bytes scales = b + 96;
  const float d = half_at(b + 108);
  for (int s = 0; s < 16; ++s) {
    const int low = (scales[s % 8] >> (4 * (s / 8))) & 15;
    const int high = (scales[8 + s % 4] >> (2 * (s / 4))) & 3;
    const float scale = d * static_cast<float>((low | high << 4) - 32);
    const int h = s / 8;
    const int p = s / 2 % 4;
    const int l = 16 * (s & 1);
    for (int i = 0; i < 16; ++i) {
      const int code = (codes[32 * h + l + i] >> (2 * p)) & 3;
      const int bit = (b[l + i] >> (4 * h + p)) & 1;
      out[16 * s + i] = scale * static_cast<float>(code - (bit != 0 ? 0 : 4));
    }
  }
}

struct ScaleMin {
  float scale;
  float minimum;
};
// The 6-bit pair of sub-block t (0..7, 32 elements each) out of the 12 bytes of Q4_K and Q5_K.
ScaleMin scale_min(Bytes b, int t) noexcept {
  if (t < 4) return {static_cast<float>(b[t] & 63), static_cast<float>(b[t + 4] & 63)};
  return {static_cast<float>((b[t + 4] & 15) | (b[t - 4] >> 6) << 4),
          static_cast<float>((b[t + 4] >> 4) | (b[t] >> 6) << 4)};
}

// d, dmin, 12 bytes of scales, 128 bytes: sub-block t in bytes 32 (t / 2) .., low nibble for even t
void q4_k(Bytes b, float* out) noexcept {
  const float d = half_at(b);
  const float dmin = half_at(b + 2);
  for (int t = 0; t < 8; ++t) {
    const ScaleMin s = scale_min(b + 4, t);
    const float scale = d * s.scale;
    const float minimum = dmin * s.minimum;
    Bytes c = b + 16 + 32 * (t / 2);
    const int shift = 4 * (t & 1);
    for (int i = 0; i < 32; ++i) out[32 * t + i] = scale * static_cast<float>((c[i] >> shift) & 15) - minimum;
  }
}

// as Q4_K, with 32 bytes of fifth bits (byte l, bit t) before the codes
void q5_k(Bytes b, float* out) noexcept {
  const float d = half_at(b);
  const float dmin = half_at(b + 2);
  Bytes high = b + 16;
  for (int t = 0; t < 8; ++t) {
    const ScaleMin s = scale_min(b + 4, t);
    const float scale = d * s.scale;
    const float minimum = dmin * s.minimum;
    Bytes c = b + 48 + 32 * (t / 2);
    const int shift = 4 * (t & 1);
    for (int i = 0; i < 32; ++i) {
      const int code = ((c[i] >> shift) & 15) | ((high[i] >> t) & 1) << 4;
      out[32 * t + i] = scale * static_cast<float>(code) - minimum;
    }
  }
}

// 128 bytes: byte 64 h + 32 (p & 1) + l, low nibble for p < 2; 64 bytes of high bits: byte 32 h + l, bits 2p; 16 x i8;
// d
void q6_k(Bytes b, float* out) noexcept {
  Bytes high = b + 128;
  Bytes scales = b + 192;
  const float d = half_at(b + 208);
  for (int s = 0; s < 16; ++s) {
    const float scale = d * static_cast<float>(static_cast<int8_t>(scales[s]));
    const int h = s / 8;
    const int p = s / 2 % 4;
    const int l = 16 * (s & 1);
    Bytes c = b + 64 * h + 32 * (p & 1) + l;
    const int shift = p < 2 ? 0 : 4;
    for (int i = 0; i < 16; ++i) {
      const int code = ((c[i] >> shift) & 15) | ((high[32 * h + l + i] >> (2 * p)) & 3) << 4;
      out[16 * s + i] = scale * static_cast<float>(code - 32);
    }
  }
}

void iq4_nl(Bytes b, float* out) noexcept {
  const float d = half_at(b);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * kNonLinear[b[2 + i] & 15];
    out[i + 16] = d * kNonLinear[b[2 + i] >> 4];
  }
}

// d, u16 of high scale bits, 4 bytes of low scale bits, 8 sub-blocks of 16 bytes as in IQ4_NL
void iq4_xs(Bytes b, float* out) noexcept {
  const float d = half_at(b);
  const int high = u16_at(b + 2);
  for (int t = 0; t < 8; ++t) {
    const int low = (b[4 + t / 2] >> (4 * (t & 1))) & 15;
    const float scale = d * static_cast<float>((low | ((high >> (2 * t)) & 3) << 4) - 32);
    Bytes c = b + 8 + 16 * t;
    for (int i = 0; i < 16; ++i) {
      out[32 * t + i] = scale * kNonLinear[c[i] & 15];
      out[32 * t + i + 16] = scale * kNonLinear[c[i] >> 4];
    }
  }
}

template <void (*Block)(Bytes, float*) noexcept>
void blocks(Bytes p, float* out, int64_t count, const GgmlTypeInfo& info) noexcept {
  for (int64_t i = 0; i < count; i += info.block, p += info.bytes) Block(p, out + i);
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
  if (count < 0 || count % info.block != 0 || data.size() != static_cast<uint64_t>(count / info.block * info.bytes)) {
    throw ArgumentError(fmt::format("{} of {} in {}: expected blocks of {} in {}", counted(count, "element"), info.name,
                                    counted(data.size(), "byte"), counted(info.block, "element"),
                                    counted(info.bytes, "byte")));
  }
  const auto p = reinterpret_cast<Bytes>(data.data());
  switch (type) {
    case GgmlType::kF32:
      if (count > 0) std::memcpy(out, p, data.size());
      break;
    case GgmlType::kF16:
      for (int64_t i = 0; i < count; ++i) out[i] = half_at(p + 2 * i);
      break;
    case GgmlType::kBF16:
      for (int64_t i = 0; i < count; ++i) out[i] = bf16_to_f32(u16_at(p + 2 * i));
      break;
    case GgmlType::kQ4_0:
      blocks<q4_0>(p, out, count, info);
      break;
    case GgmlType::kQ4_1:
      blocks<q4_1>(p, out, count, info);
      break;
    case GgmlType::kQ5_0:
      blocks<q5_0>(p, out, count, info);
      break;
    case GgmlType::kQ5_1:
      blocks<q5_1>(p, out, count, info);
      break;
    case GgmlType::kQ8_0:
      blocks<q8_0>(p, out, count, info);
      break;
    case GgmlType::kQ2_K:
      blocks<q2_k>(p, out, count, info);
      break;
    case GgmlType::kQ3_K:
      blocks<q3_k>(p, out, count, info);
      break;
    case GgmlType::kQ4_K:
      blocks<q4_k>(p, out, count, info);
      break;
    case GgmlType::kQ5_K:
      blocks<q5_k>(p, out, count, info);
      break;
    case GgmlType::kQ6_K:
      blocks<q6_k>(p, out, count, info);
      break;
    case GgmlType::kIQ4_NL:
      blocks<iq4_nl>(p, out, count, info);
      break;
    case GgmlType::kIQ4_XS:
      blocks<iq4_xs>(p, out, count, info);
      break;
    default:
      break;
  }
}

namespace {

// Where a block has its f16 numbers, of which all of its values are products and sums.
struct Halves {
  GgmlType type;
  int64_t first;
  int64_t second;
};
constexpr Halves kHalves[] = {
    {GgmlType::kF16, 0, 0},    {GgmlType::kQ4_0, 0, 0}, {GgmlType::kQ4_1, 0, 2},     {GgmlType::kQ5_0, 0, 0},
    {GgmlType::kQ5_1, 0, 2},   {GgmlType::kQ8_0, 0, 0}, {GgmlType::kQ2_K, 80, 82},   {GgmlType::kQ3_K, 108, 108},
    {GgmlType::kQ4_K, 0, 2},   {GgmlType::kQ5_K, 0, 2}, {GgmlType::kQ6_K, 208, 208}, {GgmlType::kIQ4_NL, 0, 0},
    {GgmlType::kIQ4_XS, 0, 0},
};

// Without a branch for each block: the largest exponents tell.
bool halves_are_finite(std::span<const std::byte> data, int64_t bytes, const Halves& at) noexcept {
  const auto p = reinterpret_cast<Bytes>(data.data());
  constexpr unsigned kMagnitude = 0x7fff;
  constexpr unsigned kInfinity = 0x7c00;
  unsigned largest = 0;
  for (size_t b = 0; b < data.size(); b += static_cast<size_t>(bytes)) {
    const unsigned first = u16_at(p + b + at.first) & kMagnitude;
    const unsigned second = u16_at(p + b + at.second) & kMagnitude;
    largest = std::max({largest, first, second});
  }
  return largest < kInfinity;
}

}  // namespace

bool blocks_are_finite(GgmlType type, std::span<const std::byte> data) {
  const GgmlTypeInfo info = ggml_type_info(type);
  if (!info.can_dequantize) throw UnsupportedError(fmt::format("ggml type {} cannot be dequantized", info.name));
  for (const Halves& halves : kHalves) {
    if (halves.type == type) return halves_are_finite(data, info.bytes, halves);
  }
  const auto p = reinterpret_cast<Bytes>(data.data());
  const auto step = static_cast<size_t>(info.bytes);
  const uint32_t infinity = type == GgmlType::kBF16 ? 0x7f80 : 0x7f800000;
  uint32_t largest = 0;
  for (size_t i = 0; i < data.size(); i += step)
    largest = std::max(largest, type == GgmlType::kBF16 ? u16_at(p + i) & 0x7fffu : u32_at(p + i) & 0x7fffffffu);
  return largest < infinity;
}

}  // namespace metal_marlin

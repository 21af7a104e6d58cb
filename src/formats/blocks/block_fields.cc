#include "formats/blocks/block_fields.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "core/counted.h"

namespace metal_marlin {
namespace {

static_assert(std::endian::native == std::endian::little, "the f16 numbers of blocks are little-endian");

// The fields of one block, to be read or to be written.
struct ConstBlock {
  const uint8_t* codes;
  const uint16_t* d;
  const uint16_t* m;
  const int8_t* scales;
  const uint8_t* minima;
};
struct Block {
  uint8_t* codes;
  uint16_t* d;
  uint16_t* m;
  int8_t* scales;
  uint8_t* minima;
};

void put_u16(uint8_t* at, uint16_t value) noexcept {
  std::memcpy(at, &value, sizeof value);
}
uint16_t get_u16(const uint8_t* at) noexcept {
  uint16_t value = 0;
  std::memcpy(&value, at, sizeof value);
  return value;
}

// Byte i of `half` bytes: element i in the low nibble, element i + half in the high one.
void put_nibbles(const uint8_t* __restrict codes, int half, uint8_t* __restrict out) noexcept {
  for (int i = 0; i < half; ++i) out[i] = static_cast<uint8_t>((codes[i] & 15) | (codes[i + half] & 15) << 4);
}
void get_nibbles(const uint8_t* __restrict in, int half, uint8_t* __restrict codes) noexcept {
  for (int i = 0; i < half; ++i) {
    codes[i] = in[i] & 15;
    codes[i + half] = in[i] >> 4;
  }
}

// Bit e of 32 is the fifth of element e. Eight codes at a time: the product gathers bit 4 of each byte in the topmost.
void put_fifths(const uint8_t* codes, uint8_t* out) noexcept {
  for (int i = 0; i < 4; ++i) {
    uint64_t eight = 0;
    std::memcpy(&eight, codes + 8 * i, sizeof eight);
    out[i] = static_cast<uint8_t>((((eight >> 4) & 0x0101010101010101) * 0x0102040810204080) >> 56);
  }
}
void get_fifths(const uint8_t* in, uint8_t* codes) noexcept {
  for (int e = 0; e < 32; ++e) codes[e] = static_cast<uint8_t>(codes[e] | ((in[e / 8] >> (e % 8)) & 1) << 4);
}

// Q4_0, Q4_1, Q5_0, Q5_1, IQ4_NL: d, m where there is one, fifth bits where there are any, nibbles.
template <bool Minimum, bool Fifth>
void put_32(const ConstBlock& b, uint8_t* out) noexcept {
  put_u16(out, *b.d);
  out += 2;
  if (Minimum) {
    put_u16(out, *b.m);
    out += 2;
  }
  if (Fifth) {
    put_fifths(b.codes, out);
    out += 4;
  }
  put_nibbles(b.codes, 16, out);
}
template <bool Minimum, bool Fifth>
void get_32(const uint8_t* in, const Block& b) noexcept {
  *b.d = get_u16(in);
  in += 2;
  if (Minimum) {
    *b.m = get_u16(in);
    in += 2;
  }
  get_nibbles(in + (Fifth ? 4 : 0), 16, b.codes);
  if (Fifth) get_fifths(in, b.codes);
}

// d, 32 x i8
void put_q8_0(const ConstBlock& b, uint8_t* __restrict out) noexcept {
  put_u16(out, *b.d);
  const uint8_t* __restrict codes = b.codes;
  for (int i = 0; i < 32; ++i) out[2 + i] = codes[i] ^ 0x80;
}
void get_q8_0(const uint8_t* in, const Block& b) noexcept {
  *b.d = get_u16(in);
  for (int i = 0; i < 32; ++i) b.codes[i] = in[2 + i] ^ 0x80;
}

// d, dmin, 12 bytes of pairs, fifth bits (Q5_K: byte l, bit t of 32 bytes), 128 bytes of nibbles: sub-blocks t and t +
// 1 of even t in bytes 16 t .. 16 t + 31. Bytes 0 to 3 of the pairs: 6 bits of scale t < 4, above them the high 2 bits
// of scale t + 4; bytes 4 to 7: the same of minima; bytes 8 to 11: the low 4 bits of scale and of minimum t + 4.
template <bool Fifth>
void put_k(const ConstBlock& b, uint8_t* __restrict out) noexcept {
  put_u16(out, *b.d);
  put_u16(out + 2, *b.m);
  uint8_t* pairs = out + 4;
  for (int t = 0; t < 4; ++t) {
    const auto scale = [&](int at) { return static_cast<uint8_t>(b.scales[at]) & 63; };
    const auto minimum = [&](int at) { return b.minima[at] & 63; };
    pairs[t] = static_cast<uint8_t>(scale(t) | (scale(t + 4) >> 4) << 6);
    pairs[t + 4] = static_cast<uint8_t>(minimum(t) | (minimum(t + 4) >> 4) << 6);
    pairs[t + 8] = static_cast<uint8_t>((scale(t + 4) & 15) | (minimum(t + 4) & 15) << 4);
  }
  uint8_t* nibbles = out + 16;
  if (Fifth) {
    for (int l = 0; l < 32; ++l) {
      int fifths = 0;
      for (int t = 0; t < 8; ++t) fifths |= ((b.codes[32 * t + l] >> 4) & 1) << t;
      nibbles[l] = static_cast<uint8_t>(fifths);
    }
    nibbles += 32;
  }
  for (int t = 0; t < 8; t += 2) put_nibbles(b.codes + 32 * t, 32, nibbles + 16 * t);
}
template <bool Fifth>
void get_k(const uint8_t* __restrict in, const Block& b) noexcept {
  *b.d = get_u16(in);
  *b.m = get_u16(in + 2);
  const uint8_t* pairs = in + 4;
  for (int t = 0; t < 4; ++t) {
    b.scales[t] = static_cast<int8_t>(pairs[t] & 63);
    b.minima[t] = pairs[t + 4] & 63;
    b.scales[t + 4] = static_cast<int8_t>((pairs[t + 8] & 15) | (pairs[t] >> 6) << 4);
    b.minima[t + 4] = static_cast<uint8_t>((pairs[t + 8] >> 4) | (pairs[t + 4] >> 6) << 4);
  }
  const uint8_t* fifths = in + 16;
  for (int t = 0; t < 8; t += 2) get_nibbles(fifths + (Fifth ? 32 : 0) + 16 * t, 32, b.codes + 32 * t);
  for (int t = 0; Fifth && t < 8; ++t) {
    for (int l = 0; l < 32; ++l)
      b.codes[32 * t + l] = static_cast<uint8_t>(b.codes[32 * t + l] | ((fifths[l] >> t) & 1) << 4);
  }
}

// 128 bytes: byte 64 h + 32 (p & 1) + l, low nibble for p < 2; 64 bytes of high bits: byte 32 h + l, bits 2p; 16 x i8;
// d; for the element 128 h + 32 p + l
void put_q6_k(const ConstBlock& b, uint8_t* __restrict out) noexcept {
  for (int h = 0; h < 2; ++h) {
    const uint8_t* codes = b.codes + 128 * h;
    put_nibbles(codes, 64, out + 64 * h);
    for (int l = 0; l < 32; ++l) {
      int high = 0;
      for (int p = 0; p < 4; ++p) high |= ((codes[32 * p + l] >> 4) & 3) << (2 * p);
      out[128 + 32 * h + l] = static_cast<uint8_t>(high);
    }
  }
  std::memcpy(out + 192, b.scales, 16);
  put_u16(out + 208, *b.d);
}
void get_q6_k(const uint8_t* __restrict in, const Block& b) noexcept {
  for (int h = 0; h < 2; ++h) {
    uint8_t* codes = b.codes + 128 * h;
    get_nibbles(in + 64 * h, 64, codes);
    for (int p = 0; p < 4; ++p) {
      for (int l = 0; l < 32; ++l)
        codes[32 * p + l] = static_cast<uint8_t>(codes[32 * p + l] | ((in[128 + 32 * h + l] >> (2 * p)) & 3) << 4);
    }
  }
  std::memcpy(b.scales, in + 192, 16);
  *b.d = get_u16(in + 208);
}

// d, u16 of the two high bits of each scale plus 32, 4 bytes of the low nibbles, 8 sub-blocks of 16 bytes of nibbles
void put_iq4_xs(const ConstBlock& b, uint8_t* out) noexcept {
  put_u16(out, *b.d);
  int high = 0;
  for (int t = 0; t < 8; t += 2) {
    const int even = (b.scales[t] + 32) & 63;
    const int odd = (b.scales[t + 1] + 32) & 63;
    high |= (even >> 4 | (odd >> 4) << 2) << (2 * t);
    out[4 + t / 2] = static_cast<uint8_t>((even & 15) | (odd & 15) << 4);
  }
  put_u16(out + 2, static_cast<uint16_t>(high));
  for (int t = 0; t < 8; ++t) put_nibbles(b.codes + 32 * t, 16, out + 8 + 16 * t);
}
void get_iq4_xs(const uint8_t* in, const Block& b) noexcept {
  *b.d = get_u16(in);
  const int high = get_u16(in + 2);
  for (int t = 0; t < 8; ++t) {
    const int low = (in[4 + t / 2] >> (4 * (t & 1))) & 15;
    b.scales[t] = static_cast<int8_t>((low | ((high >> (2 * t)) & 3) << 4) - 32);
    get_nibbles(in + 8 + 16 * t, 16, b.codes + 32 * t);
  }
}

struct Packing {
  void (*put)(const ConstBlock& from, uint8_t* out) noexcept;
  void (*get)(const uint8_t* in, const Block& to) noexcept;
};
Packing packing_of(GgmlType type) noexcept {
  switch (type) {
    case GgmlType::kQ4_1:
      return {put_32<true, false>, get_32<true, false>};
    case GgmlType::kQ5_0:
      return {put_32<false, true>, get_32<false, true>};
    case GgmlType::kQ5_1:
      return {put_32<true, true>, get_32<true, true>};
    case GgmlType::kQ8_0:
      return {put_q8_0, get_q8_0};
    case GgmlType::kQ4_K:
      return {put_k<false>, get_k<false>};
    case GgmlType::kQ5_K:
      return {put_k<true>, get_k<true>};
    case GgmlType::kQ6_K:
      return {put_q6_k, get_q6_k};
    case GgmlType::kIQ4_XS:
      return {put_iq4_xs, get_iq4_xs};
    default:
      return {put_32<false, false>, get_32<false, false>};  // Q4_0, IQ4_NL
  }
}

BlockForm required_form(GgmlType type) {
  if (const auto form = block_form(type)) return *form;
  throw ArgumentError(fmt::format("ggml type {}: expected one of quantized blocks that can be written, as Q4_0 or Q4_K",
                                  ggml_type_info(type).name));
}

template <typename Block, typename Fields>
Block block_at(Fields& fields, const BlockForm& form, int64_t i) noexcept {
  return {fields.codes.data() + i * form.block, fields.d.data() + i, form.minima ? fields.m.data() + i : nullptr,
          form.scales() ? fields.scales.data() + i * form.segments() : nullptr,
          form.scales() && form.minima ? fields.minima.data() + i * form.segments() : nullptr};
}

}  // namespace

std::optional<BlockForm> block_form(GgmlType type) noexcept {
  const auto* at =
      std::find_if(kBlockForms.begin(), kBlockForms.end(), [&](const BlockForm& f) { return f.type == type; });
  return at == kBlockForms.end() ? std::nullopt : std::optional(*at);
}

BlockFields::BlockFields(const BlockForm& form, int64_t blocks)
    : codes(static_cast<size_t>(blocks * form.block)),
      d(static_cast<size_t>(blocks)),
      m(static_cast<size_t>(form.minima ? blocks : 0)),
      scales(static_cast<size_t>(form.scales() ? blocks * form.segments() : 0)),
      minima(form.minima ? scales.size() : 0) {}

void pack_blocks(GgmlType type, const BlockFields& fields, int64_t first, std::span<std::byte> out) {
  const BlockForm form = required_form(type);
  const auto all = std::ssize(fields.d);
  const auto blocks = std::ssize(out) / form.bytes;
  const auto segments = static_cast<size_t>(form.scales() ? all * form.segments() : 0);
  if (blocks * form.bytes != std::ssize(out) || first < 0 || first > all - blocks ||
      fields.codes.size() != static_cast<size_t>(all * form.block) ||
      fields.m.size() != (form.minima ? fields.d.size() : 0) || fields.scales.size() != segments ||
      fields.minima.size() != (form.minima ? segments : 0)) {
    throw ArgumentError(
        fmt::format("blocks of {}: expected the numbers of {} and bytes for blocks from {}, found {}, {} and {}",
                    ggml_type_info(type).name, counted(all, "block"), first, counted(fields.codes.size(), "code"),
                    counted(fields.scales.size(), "scale"), counted(out.size(), "byte")));
  }
  const Packing packing = packing_of(type);
  auto* to = reinterpret_cast<uint8_t*>(out.data());
  for (int64_t i = 0; i < blocks; ++i) packing.put(block_at<ConstBlock>(fields, form, first + i), to + i * form.bytes);
}

std::vector<std::byte> pack_blocks(GgmlType type, const BlockFields& fields) {
  std::vector<std::byte> out(fields.d.size() * static_cast<size_t>(required_form(type).bytes));
  pack_blocks(type, fields, 0, out);
  return out;
}

BlockFields unpack_blocks(GgmlType type, std::span<const std::byte> blocks) {
  const BlockForm form = required_form(type);
  const auto count = std::ssize(blocks) / form.bytes;
  if (count * form.bytes != std::ssize(blocks)) {
    throw ArgumentError(fmt::format("{} of {}: expected whole blocks of {}", counted(blocks.size(), "byte"),
                                    ggml_type_info(type).name, counted(form.bytes, "byte")));
  }
  BlockFields fields(form, count);
  const Packing packing = packing_of(type);
  const auto* from = reinterpret_cast<const uint8_t*>(blocks.data());
  for (int64_t i = 0; i < count; ++i) packing.get(from + i * form.bytes, block_at<Block>(fields, form, i));
  return fields;
}

}  // namespace metal_marlin

// The integer products on 64-bit ARM: plain NEON, NEON with products of four bytes (SDOT), and with products of
// matrices of bytes (SMMLA). Each function carries what it needs beyond NEON as an attribute.
#include "kernels/codes/product.h"
#include "kernels/codes/tables.h"

#if defined(__aarch64__)

#include <arm_neon.h>

#include <algorithm>
#include <cstring>

namespace metal_marlin::internal {
namespace {

#define MM_DOT __attribute__((target("arch=armv8.2-a+dotprod")))
#define MM_I8MM __attribute__((target("arch=armv8.2-a+dotprod+i8mm")))
#define MM_INLINE inline __attribute__((always_inline))

constexpr int64_t kPrefetch = 2048;  // bytes ahead
constexpr int64_t kRowsAtOnce = 64;  // whose sums stay in the first cache
constexpr int64_t kMostRows = 4;     // of a block
constexpr int64_t kStep = 8;         // channels of a step of all loops
constexpr int kQuarters = 4;         // vectors of four outputs in a tile

// How the codes of a segment stand where a block of rows reads them.
enum class Form : uint8_t {
  kStored,   // as product.h says
  kDecoded,  // a byte each, 8-bit codes less 128: [length / 4][64], as 8-bit codes are stored
  kPaired,   // the same bytes as [length / 8][8 pairs of outputs][2 outputs][8 channels], for SMMLA
};

// Codes of a step, of the outputs 4 q .. 4 q + 3: channels 0 .. 3 and 4 .. 7. 8-bit codes come less 128, since the
// products are of signed bytes.
struct Codes {
  int8x16_t first;
  int8x16_t second;
};
template <Form form, int Bits>
MM_INLINE Codes load_codes(const uint8_t* at, int q) noexcept {
  if constexpr (form == Form::kStored && Bits == 4) {
    const uint8x16_t v = vld1q_u8(at + 16 * q);
    return {vreinterpretq_s8_u8(vandq_u8(v, vdupq_n_u8(15))), vreinterpretq_s8_u8(vshrq_n_u8(v, 4))};
  } else {
    uint8x16_t first = vld1q_u8(at + 16 * q);
    uint8x16_t second = vld1q_u8(at + kLineBytes + 16 * q);
    if constexpr (form == Form::kStored) {
      first = veorq_u8(first, vdupq_n_u8(0x80));
      second = veorq_u8(second, vdupq_n_u8(0x80));
    }
    return {vreinterpretq_s8_u8(first), vreinterpretq_s8_u8(second)};
  }
}
template <Form form, int Bits>
constexpr int64_t step_bytes() noexcept {
  return form == Form::kStored && Bits == 4 ? kLineBytes : 2 * kLineBytes;
}

// ---------------------------------------------------------------- the sums of a segment, added to those of a row

struct Scales {
  float32x4_t scale[kQuarters];
  float32x4_t minimum[kQuarters];
  int32x4_t lift[kQuarters];  // times the sum of the activations: what the codes were less, minus the zeros
};

MM_INLINE void load_scales(ScaleForm form, const void* scales, int64_t at, float32x4_t (&out)[kQuarters]) noexcept {
  for (int q = 0; q < kQuarters; ++q) {
    if (form == ScaleForm::kF32) {
      out[q] = vld1q_f32(static_cast<const float*>(scales) + at + 4 * q);
      continue;
    }
    const uint16x4_t bits = vld1_u16(static_cast<const uint16_t*>(scales) + at + 4 * q);
    out[q] = form == ScaleForm::kBF16 ? vreinterpretq_f32_u32(vshll_n_u16(bits, 16))
                                      : vcvt_f32_f16(vreinterpret_f16_u16(bits));
  }
}

template <int Bits>
MM_INLINE void load_scales(const CodeTiles& w, int64_t at, Scales& out) noexcept {
  constexpr int32_t kLess = Bits == 8 ? 128 : 0;
  load_scales(w.form, w.scales, at * kTileOutputs, out.scale);
  if (w.minima != nullptr) {
    load_scales(w.form, w.minima, at * kTileOutputs, out.minimum);
  } else {
    for (int q = 0; q < kQuarters; ++q) out.minimum[q] = vdupq_n_f32(0);
  }
  if (w.zeros == nullptr) {
    for (int q = 0; q < kQuarters; ++q) out.lift[q] = vdupq_n_s32(kLess - w.zero);
    return;
  }
  const uint8x16_t zeros = vld1q_u8(w.zeros + at * kTileOutputs);
  const uint16x8_t half[2] = {vmovl_u8(vget_low_u8(zeros)), vmovl_u8(vget_high_u8(zeros))};
  for (int q = 0; q < kQuarters; ++q) {
    const uint16x4_t quarter = q % 2 == 0 ? vget_low_u16(half[q / 2]) : vget_high_u16(half[q / 2]);
    out.lift[q] = vsubq_s32(vdupq_n_s32(kLess), vreinterpretq_s32_u32(vmovl_u16(quarter)));
  }
}

MM_INLINE void add_segment(bool minima, const Scales& of, const int32x4_t (&dot)[kQuarters], float scale, int32_t sum,
                           float* total) noexcept {
  const float of_row = scale * static_cast<float>(sum);
  for (int q = 0; q < kQuarters; ++q) {
    const int32x4_t whole = vmlaq_n_s32(dot[q], of.lift[q], sum);
    float32x4_t t = vld1q_f32(total + 4 * q);
    t = vfmaq_f32(t, vcvtq_f32_s32(whole), vmulq_n_f32(of.scale[q], scale));
    if (minima) t = vfmaq_n_f32(t, of.minimum[q], of_row);
    vst1q_f32(total + 4 * q, t);
  }
}

// ---------------------------------------------------------------- blocks of rows

// Adds segments s .. end - 1 of a tile to total [M][16], of M rows from x.codes + row * ld on. `codes` is where those
// of segment s stand, in the block's form.
using Block = void (*)(const CodeTiles& w, int64_t tile, int64_t s, int64_t end, const uint8_t* codes,
                       const RoundedRows& x, int64_t row, float* total) noexcept;

// SDOT: four products of bytes, added to one of four sums.
template <int M, Form form, int Bits>
MM_DOT void block_dot(const CodeTiles& w, int64_t tile, int64_t s, int64_t end, const uint8_t* codes,
                      const RoundedRows& x, int64_t row, float* total) noexcept {
  const int8_t* a = x.codes + row * x.ld + s * w.length;
  for (; s < end; ++s) {
    int32x4_t dot[M][kQuarters];
    for (int m = 0; m < M; ++m) {
      for (int q = 0; q < kQuarters; ++q) dot[m][q] = vdupq_n_s32(0);
    }
    for (int64_t k = 0; k < w.length; k += kStep) {
      if constexpr (form == Form::kStored) __builtin_prefetch(codes + kPrefetch);
      int8x8_t b[M];
      for (int m = 0; m < M; ++m) b[m] = vld1_s8(a + m * x.ld);
      for (int q = 0; q < kQuarters; ++q) {
        const Codes c = load_codes<form, Bits>(codes, q);
        for (int m = 0; m < M; ++m) {
          dot[m][q] = vdotq_lane_s32(dot[m][q], c.first, b[m], 0);
          dot[m][q] = vdotq_lane_s32(dot[m][q], c.second, b[m], 1);
        }
      }
      codes += step_bytes<form, Bits>();
      a += kStep;
    }
    Scales of;
    load_scales<Bits>(w, tile * w.segments + s, of);
    for (int m = 0; m < M; ++m) {
      const int64_t at = (row + m) * w.segments + s;
      add_segment(w.minima != nullptr, of, dot[m], x.scales[at], x.sums[at], total + m * kTileOutputs);
    }
  }
}

// SMMLA: two rows times two outputs times eight channels. M is even; the last row may be one beyond the last.
template <int M, int Bits>
MM_I8MM void block_i8mm(const CodeTiles& w, int64_t tile, int64_t s, int64_t end, const uint8_t* codes,
                        const RoundedRows& x, int64_t row, float* total) noexcept {
  constexpr int kPairs = 2 * kQuarters;
  const int8_t* a = x.codes + row * x.ld + s * w.length;
  for (; s < end; ++s) {
    int32x4_t sum[M / 2][kPairs];  // row 0 of outputs 0 and 1, then row 1
    for (int m = 0; m < M / 2; ++m) {
      for (int p = 0; p < kPairs; ++p) sum[m][p] = vdupq_n_s32(0);
    }
    for (int64_t k = 0; k < w.length; k += kStep) {
      int8x16_t b[M / 2];
      for (int m = 0; m < M / 2; ++m) b[m] = vcombine_s8(vld1_s8(a + 2 * m * x.ld), vld1_s8(a + (2 * m + 1) * x.ld));
      for (int p = 0; p < kPairs; ++p) {
        const int8x16_t c = vreinterpretq_s8_u8(vld1q_u8(codes + 16 * p));
        for (int m = 0; m < M / 2; ++m) sum[m][p] = vmmlaq_s32(sum[m][p], b[m], c);
      }
      codes += step_bytes<Form::kPaired, Bits>();
      a += kStep;
    }
    Scales of;
    load_scales<Bits>(w, tile * w.segments + s, of);
    for (int m = 0; m < M; ++m) {
      int32x4_t dot[kQuarters];
      for (int q = 0; q < kQuarters; ++q) {
        const int64x2_t left = vreinterpretq_s64_s32(sum[m / 2][2 * q]);
        const int64x2_t right = vreinterpretq_s64_s32(sum[m / 2][2 * q + 1]);
        dot[q] = vreinterpretq_s32_s64(m % 2 == 0 ? vzip1q_s64(left, right) : vzip2q_s64(left, right));
      }
      const int64_t at = (row + m) * w.segments + s;
      add_segment(w.minima != nullptr, of, dot, x.scales[at], x.sums[at], total + m * kTileOutputs);
    }
  }
}

// Without either: products of bytes in 16 bits, added there over at most kSteps steps (4 bits: 16 * 15 * 127 = 30,480;
// 8 bits: 2 * 128 * 127 = 32,512), then in 32.
template <int M, Form form, int Bits>
void block_neon(const CodeTiles& w, int64_t tile, int64_t s, int64_t end, const uint8_t* codes, const RoundedRows& x,
                int64_t row, float* total) noexcept {
  constexpr int64_t kSteps = Bits == 4 ? 8 : 1;
  const int8_t* a = x.codes + row * x.ld + s * w.length;
  for (; s < end; ++s) {
    int32x4_t dot[M][kQuarters];
    for (int m = 0; m < M; ++m) {
      for (int q = 0; q < kQuarters; ++q) dot[m][q] = vdupq_n_s32(0);
    }
    for (int64_t k = 0; k < w.length;) {
      int16x8_t low[M][kQuarters];  // outputs 4 q and 4 q + 1
      int16x8_t high[M][kQuarters];
      for (int m = 0; m < M; ++m) {
        for (int q = 0; q < kQuarters; ++q) low[m][q] = high[m][q] = vdupq_n_s16(0);
      }
      for (const int64_t stop = std::min(w.length, k + kSteps * kStep); k < stop; k += kStep) {
        if constexpr (form == Form::kStored) __builtin_prefetch(codes + kPrefetch);
        int8x16_t first[M];
        int8x16_t second[M];
        for (int m = 0; m < M; ++m) {
          const int32x2_t b = vreinterpret_s32_s8(vld1_s8(a + m * x.ld));
          first[m] = vreinterpretq_s8_s32(vdupq_lane_s32(b, 0));
          second[m] = vreinterpretq_s8_s32(vdupq_lane_s32(b, 1));
        }
        for (int q = 0; q < kQuarters; ++q) {
          const Codes c = load_codes<form, Bits>(codes, q);
          for (int m = 0; m < M; ++m) {
            low[m][q] = vmlal_s8(low[m][q], vget_low_s8(c.first), vget_low_s8(first[m]));
            low[m][q] = vmlal_s8(low[m][q], vget_low_s8(c.second), vget_low_s8(second[m]));
            high[m][q] = vmlal_high_s8(high[m][q], c.first, first[m]);
            high[m][q] = vmlal_high_s8(high[m][q], c.second, second[m]);
          }
        }
        codes += step_bytes<form, Bits>();
        a += kStep;
      }
      for (int m = 0; m < M; ++m) {
        for (int q = 0; q < kQuarters; ++q) {
          const int32x4_t sums = vpaddq_s32(vpaddlq_s16(low[m][q]), vpaddlq_s16(high[m][q]));
          dot[m][q] = vaddq_s32(dot[m][q], sums);
        }
      }
    }
    Scales of;
    load_scales<Bits>(w, tile * w.segments + s, of);
    for (int m = 0; m < M; ++m) {
      const int64_t at = (row + m) * w.segments + s;
      add_segment(w.minima != nullptr, of, dot[m], x.scales[at], x.sums[at], total + m * kTileOutputs);
    }
  }
}

// ---------------------------------------------------------------- all rows

template <Form form, int Bits>
void decode(const uint8_t* codes, int64_t length, uint8_t* out) noexcept {
  for (int64_t k = 0; k < length; k += kStep) {
    __builtin_prefetch(codes + kPrefetch);
    for (int q = 0; q < kQuarters; ++q) {
      const Codes c = load_codes<Form::kStored, Bits>(codes, q);
      if constexpr (form == Form::kPaired) {
        const int32x4_t first = vreinterpretq_s32_s8(c.first);
        const int32x4_t second = vreinterpretq_s32_s8(c.second);
        vst1q_u8(out + 32 * q, vreinterpretq_u8_s32(vzip1q_s32(first, second)));
        vst1q_u8(out + 32 * q + 16, vreinterpretq_u8_s32(vzip2q_s32(first, second)));
      } else {
        vst1q_u8(out + 16 * q, vreinterpretq_u8_s8(c.first));
        vst1q_u8(out + kLineBytes + 16 * q, vreinterpretq_u8_s8(c.second));
      }
    }
    codes += step_bytes<Form::kStored, Bits>();
    out += step_bytes<form, Bits>();
  }
}

// The functions of an instruction set. Up to `few` rows read the codes as they are stored, in one block; more decode a
// segment once and multiply it in blocks of at most `many` rows.
struct Blocks {
  int64_t few;
  Block stored[4];  // of 1 .. few rows
  void (*decode)(const uint8_t* codes, int64_t length, uint8_t* out) noexcept;
  int64_t many;
  Block decoded[4];  // of 1 .. many rows
};

template <int Bits>
constexpr Blocks kNeonBlocks = {2,
                                {block_neon<1, Form::kStored, Bits>, block_neon<2, Form::kStored, Bits>},
                                decode<Form::kDecoded, Bits>,
                                2,
                                {block_neon<1, Form::kDecoded, Bits>, block_neon<2, Form::kDecoded, Bits>}};
template <int Bits>
constexpr Blocks kDotBlocks = {4,
                               {block_dot<1, Form::kStored, Bits>, block_dot<2, Form::kStored, Bits>,
                                block_dot<3, Form::kStored, Bits>, block_dot<4, Form::kStored, Bits>},
                               decode<Form::kDecoded, Bits>,
                               4,
                               {block_dot<1, Form::kDecoded, Bits>, block_dot<2, Form::kDecoded, Bits>,
                                block_dot<3, Form::kDecoded, Bits>, block_dot<4, Form::kDecoded, Bits>}};
template <int Bits>
constexpr Blocks kI8mmBlocks = {4,
                                {block_dot<1, Form::kStored, Bits>, block_dot<2, Form::kStored, Bits>,
                                 block_dot<3, Form::kStored, Bits>, block_dot<4, Form::kStored, Bits>},
                                decode<Form::kPaired, Bits>,
                                4,
                                {block_i8mm<2, Bits>, block_i8mm<2, Bits>, block_i8mm<4, Bits>, block_i8mm<4, Bits>}};

void multiply(const Blocks& blocks, const CodeTiles& w, int64_t first_tile, int64_t tiles, const RoundedRows& x,
              int64_t rows, float* y, int64_t ldy) noexcept {
  alignas(64) uint8_t decoded[kLongestSegment * kTileOutputs];
  alignas(64) float total[kRowsAtOnce * kTileOutputs];
  for (int64_t first = 0; first < rows; first += kRowsAtOnce) {
    const int64_t count = std::min(kRowsAtOnce, rows - first);
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t tile = first_tile + t;
      const uint8_t* codes = w.codes + tile * w.segments * w.segment_bytes();
      std::fill(total, total + (count + kMostRows - 1) / kMostRows * kMostRows * kTileOutputs, 0.0f);
      if (count <= blocks.few) {
        blocks.stored[count - 1](w, tile, 0, w.segments, codes, x, first, total);
      } else {
        for (int64_t s = 0; s < w.segments; ++s, codes += w.segment_bytes()) {
          blocks.decode(codes, w.length, decoded);
          for (int64_t r = 0; r < count; r += blocks.many) {
            const int64_t n = std::min(blocks.many, count - r);
            blocks.decoded[n - 1](w, tile, s, s + 1, decoded, x, first + r, total + r * kTileOutputs);
          }
        }
      }
      const int64_t width = std::min(kTileOutputs, w.out_features - tile * kTileOutputs);
      for (int64_t r = 0; r < count; ++r) {
        std::memcpy(y + (first + r) * ldy + t * kTileOutputs, total + r * kTileOutputs,
                    static_cast<size_t>(width) * sizeof(float));
      }
    }
  }
}

}  // namespace

void multiply_codes_neon(const CodeTiles& w, int64_t first_tile, int64_t tiles, const RoundedRows& x, int64_t rows,
                         float* y, int64_t ldy) noexcept {
  multiply(w.bits == 4 ? kNeonBlocks<4> : kNeonBlocks<8>, w, first_tile, tiles, x, rows, y, ldy);
}

void multiply_codes_neon_dot(const CodeTiles& w, int64_t first_tile, int64_t tiles, const RoundedRows& x, int64_t rows,
                             float* y, int64_t ldy) noexcept {
  multiply(w.bits == 4 ? kDotBlocks<4> : kDotBlocks<8>, w, first_tile, tiles, x, rows, y, ldy);
}

void multiply_codes_neon_i8mm(const CodeTiles& w, int64_t first_tile, int64_t tiles, const RoundedRows& x, int64_t rows,
                              float* y, int64_t ldy) noexcept {
  multiply(w.bits == 4 ? kI8mmBlocks<4> : kI8mmBlocks<8>, w, first_tile, tiles, x, rows, y, ldy);
}

void round_segments_neon(const float* x, int64_t segments, int64_t length, int8_t* codes, float* scales,
                         int32_t* sums) noexcept {
  for (int64_t s = 0; s < segments; ++s, x += length, codes += length) {
    int32x4_t largest = vdupq_n_s32(0);
    for (int64_t i = 0; i < length; i += 4) {
      const int32x4_t bits = vreinterpretq_s32_f32(vld1q_f32(x + i));
      largest = vmaxq_s32(largest, vandq_s32(bits, vdupq_n_s32(0x7fffffff)));
    }
    const SegmentScale scale = segment_scale(vmaxvq_s32(largest));
    scales[s] = scale.scale;
    if (!scale.usable) {
      std::memset(codes, 0, static_cast<size_t>(length));
      sums[s] = 0;
      continue;
    }
    int32x4_t sum = vdupq_n_s32(0);
    for (int64_t i = 0; i < length; i += 8) {
      const int32x4_t first = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + i), scale.inverse));
      const int32x4_t second = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + i + 4), scale.inverse));
      sum = vaddq_s32(sum, vaddq_s32(first, second));
      vst1_s8(codes + i, vqmovn_s16(vcombine_s16(vqmovn_s32(first), vqmovn_s32(second))));
    }
    sums[s] = vaddvq_s32(sum);
  }
}

}  // namespace metal_marlin::internal

#endif

// The integer products on x86: AVX2, AVX-VNNI, AVX-512 with VNNI. Each function carries its instruction set as an
// attribute: no flag of this file leaks into what the linker shares with code for lesser processors.
#include "kernels/code_product.h"
#include "kernels/code_tables.h"

#if defined(__x86_64__)

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // in GCC 12's own headers (its bug 105593)
#endif
#include <immintrin.h>

#include <algorithm>
#include <cstring>

namespace metal_marlin::internal {
namespace {

#define MM_AVX2 __attribute__((target("avx2,fma,f16c")))
#define MM_AVX_VNNI __attribute__((target("avx2,fma,f16c,avxvnni")))
#define MM_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")))
#define MM_AVX512_VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")))
#define MM_INLINE inline __attribute__((always_inline))

constexpr int64_t kPrefetch = 8192;  // bytes ahead: what the latency of memory costs at a core's full rate

MM_INLINE int32_t four(const int8_t* a) noexcept {
  int32_t v;
  std::memcpy(&v, a, sizeof v);
  return v;
}

// Rows m = 0 .. of a call, and the place of its tile.
struct Place {
  const uint8_t* codes;
  const uint16_t* scales;
  const uint8_t* zeros;
  const uint16_t* minima;
};
MM_INLINE Place place_of(const CodeTiles& w, int64_t tile) noexcept {
  const int64_t at = tile * w.segments;
  return {w.codes + at * w.segment_bytes(), w.scales + at * kTileOutputs,
          w.zeros == nullptr ? nullptr : w.zeros + at * kTileOutputs,
          w.minima == nullptr ? nullptr : w.minima + at * kTileOutputs};
}

// ---------------------------------------------------------------- AVX-512

MM_AVX512 MM_INLINE __m512 scales512(const CodeTiles& w, const uint16_t* at) noexcept {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
  if (w.bf16) return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  return _mm512_cvtph_ps(bits);
}

template <int M, int Bits>
MM_AVX512_VNNI void tile_avx512(const CodeTiles& w, int64_t tile, const RoundedRows& x, int64_t row, float* y,
                                int64_t ldy) noexcept {
  Place p = place_of(w, tile);
  const int64_t lines = w.segment_bytes() / kLineBytes;
  const __m512i low = _mm512_set1_epi8(15);
  const int8_t* a = x.codes + row * x.ld;
  const float* scale = x.scales + row * w.segments;
  const int32_t* sum = x.sums + row * w.segments;
  __m512 total[M];
  for (int m = 0; m < M; ++m) total[m] = _mm512_setzero_ps();
  for (int64_t s = 0; s < w.segments; ++s) {
    __m512i dot[M];
    __m512i more[M];
    if (p.zeros != nullptr) {
      const __m512i zero = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p.zeros)));
      for (int m = 0; m < M; ++m) dot[m] = _mm512_mullo_epi32(zero, _mm512_set1_epi32(-sum[m * w.segments + s]));
      p.zeros += kTileOutputs;
    } else {
      for (int m = 0; m < M; ++m) dot[m] = _mm512_set1_epi32(-w.zero * sum[m * w.segments + s]);
    }
    for (int m = 0; m < M; ++m) more[m] = _mm512_setzero_si512();
    if constexpr (Bits == 4) {
      for (int64_t line = 0; line < lines; ++line) {
        const __m512i v = _mm512_load_si512(p.codes);
        _mm_prefetch(reinterpret_cast<const char*>(p.codes + kPrefetch), _MM_HINT_T0);
        const __m512i first = _mm512_and_si512(v, low);
        const __m512i second = _mm512_and_si512(_mm512_srli_epi16(v, 4), low);
        for (int m = 0; m < M; ++m) {
          dot[m] = _mm512_dpbusd_epi32(dot[m], first, _mm512_set1_epi32(four(a + m * x.ld)));
          more[m] = _mm512_dpbusd_epi32(more[m], second, _mm512_set1_epi32(four(a + m * x.ld + 4)));
        }
        p.codes += kLineBytes;
        a += 8;
      }
    } else {
      for (int64_t line = 0; line < lines; line += 2) {
        _mm_prefetch(reinterpret_cast<const char*>(p.codes + kPrefetch), _MM_HINT_T0);
        _mm_prefetch(reinterpret_cast<const char*>(p.codes + kPrefetch + kLineBytes), _MM_HINT_T0);
        const __m512i first = _mm512_load_si512(p.codes);
        const __m512i second = _mm512_load_si512(p.codes + kLineBytes);
        for (int m = 0; m < M; ++m) {
          dot[m] = _mm512_dpbusd_epi32(dot[m], first, _mm512_set1_epi32(four(a + m * x.ld)));
          more[m] = _mm512_dpbusd_epi32(more[m], second, _mm512_set1_epi32(four(a + m * x.ld + 4)));
        }
        p.codes += 2 * kLineBytes;
        a += 8;
      }
    }
    const __m512 of_weight = scales512(w, p.scales);
    p.scales += kTileOutputs;
    for (int m = 0; m < M; ++m) {
      const __m512 factor = _mm512_mul_ps(of_weight, _mm512_set1_ps(scale[m * w.segments + s]));
      total[m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_add_epi32(dot[m], more[m])), factor, total[m]);
    }
    if (p.minima != nullptr) {
      const __m512 minimum = scales512(w, p.minima);
      p.minima += kTileOutputs;
      for (int m = 0; m < M; ++m) {
        const float of_row = scale[m * w.segments + s] * static_cast<float>(sum[m * w.segments + s]);
        total[m] = _mm512_fmadd_ps(minimum, _mm512_set1_ps(of_row), total[m]);
      }
    }
  }
  const int64_t width = std::min(kTileOutputs, w.out_features - tile * kTileOutputs);
  const auto mask = static_cast<__mmask16>((1u << width) - 1);
  for (int m = 0; m < M; ++m) _mm512_mask_storeu_ps(y + m * ldy, mask, total[m]);
}

// ---------------------------------------------------------------- 256 bits

// Half a tile, or the two halves of one: outputs 8 (half) .. 8 (half) + 8 H.
MM_AVX2 MM_INLINE __m256 scales256(const CodeTiles& w, const uint16_t* at) noexcept {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
  if (w.bf16) return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  return _mm256_cvtph_ps(bits);
}

MM_AVX2 MM_INLINE void start256(const CodeTiles& w, const Place& p, int64_t half, int32_t sum, __m256i& dot) noexcept {
  if (p.zeros == nullptr) {
    dot = _mm256_set1_epi32(-w.zero * sum);
    return;
  }
  const __m256i zero = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p.zeros + 8 * half)));
  dot = _mm256_mullo_epi32(zero, _mm256_set1_epi32(-sum));
}

MM_AVX2 MM_INLINE void finish256(const CodeTiles& w, const Place& p, int64_t half, __m256i dot, float scale,
                                 int32_t sum, __m256& total) noexcept {
  const __m256 factor = _mm256_mul_ps(scales256(w, p.scales + 8 * half), _mm256_set1_ps(scale));
  total = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), factor, total);
  if (p.minima == nullptr) return;
  total = _mm256_fmadd_ps(scales256(w, p.minima + 8 * half), _mm256_set1_ps(scale * static_cast<float>(sum)), total);
}

MM_AVX2 MM_INLINE void store256(const CodeTiles& w, int64_t tile, int64_t half, __m256 total, float* y) noexcept {
  const int64_t width = w.out_features - tile * kTileOutputs - 8 * half;
  if (width >= 8) {
    _mm256_storeu_ps(y + 8 * half, total);
  } else if (width > 0) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(width)), lane);
    _mm256_maskstore_ps(y + 8 * half, mask, total);
  }
}

MM_INLINE void step(Place& p) noexcept {
  p.scales += kTileOutputs;
  if (p.zeros != nullptr) p.zeros += kTileOutputs;
  if (p.minima != nullptr) p.minima += kTileOutputs;
}

template <int M, int H, int Bits>
MM_AVX_VNNI void tile_avx_vnni(const CodeTiles& w, int64_t tile, int64_t half, const RoundedRows& x, int64_t row,
                               float* y, int64_t ldy) noexcept {
  Place p = place_of(w, tile);
  const int64_t lines = w.segment_bytes() / kLineBytes;
  const __m256i low = _mm256_set1_epi8(15);
  const int8_t* a = x.codes + row * x.ld;
  const float* scale = x.scales + row * w.segments;
  const int32_t* sum = x.sums + row * w.segments;
  __m256 total[M][H];
  for (int m = 0; m < M; ++m) {
    for (int h = 0; h < H; ++h) total[m][h] = _mm256_setzero_ps();
  }
  for (int64_t s = 0; s < w.segments; ++s) {
    __m256i dot[M][H];
    for (int m = 0; m < M; ++m) {
      for (int h = 0; h < H; ++h) start256(w, p, half + h, sum[m * w.segments + s], dot[m][h]);
    }
    for (int64_t line = 0; line < lines; ++line) {
      _mm_prefetch(reinterpret_cast<const char*>(p.codes + kPrefetch), _MM_HINT_T0);
      for (int h = 0; h < H; ++h) {
        const __m256i v = _mm256_load_si256(reinterpret_cast<const __m256i*>(p.codes + 32 * (half + h)));
        if constexpr (Bits == 4) {
          const __m256i first = _mm256_and_si256(v, low);
          const __m256i second = _mm256_and_si256(_mm256_srli_epi16(v, 4), low);
          for (int m = 0; m < M; ++m) {
            dot[m][h] = _mm256_dpbusd_avx_epi32(dot[m][h], first, _mm256_set1_epi32(four(a + m * x.ld)));
            dot[m][h] = _mm256_dpbusd_avx_epi32(dot[m][h], second, _mm256_set1_epi32(four(a + m * x.ld + 4)));
          }
        } else {
          for (int m = 0; m < M; ++m)
            dot[m][h] = _mm256_dpbusd_avx_epi32(dot[m][h], v, _mm256_set1_epi32(four(a + m * x.ld)));
        }
      }
      p.codes += kLineBytes;
      a += Bits == 4 ? 8 : 4;
    }
    for (int m = 0; m < M; ++m) {
      for (int h = 0; h < H; ++h)
        finish256(w, p, half + h, dot[m][h], scale[m * w.segments + s], sum[m * w.segments + s], total[m][h]);
    }
    step(p);
  }
  for (int m = 0; m < M; ++m) {
    for (int h = 0; h < H; ++h) store256(w, tile, half + h, total[m][h], y + m * ldy);
  }
}

// Products of 4-bit codes are summed in 16 bits over at most kSteps lines: 15 * 127 * 2 * 2 * 4 = 30480. Codes of 8
// bits are taken as two of 4.
template <int M, int H, int Bits>
MM_AVX2 void tile_avx2(const CodeTiles& w, int64_t tile, int64_t half, const RoundedRows& x, int64_t row, float* y,
                       int64_t ldy) noexcept {
  constexpr int64_t kSteps = Bits == 4 ? 4 : 8;
  Place p = place_of(w, tile);
  const int64_t lines = w.segment_bytes() / kLineBytes;
  const __m256i low = _mm256_set1_epi8(15);
  const __m256i ones = _mm256_set1_epi16(1);
  const int8_t* a = x.codes + row * x.ld;
  const float* scale = x.scales + row * w.segments;
  const int32_t* sum = x.sums + row * w.segments;
  __m256 total[M][H];
  for (int m = 0; m < M; ++m) {
    for (int h = 0; h < H; ++h) total[m][h] = _mm256_setzero_ps();
  }
  for (int64_t s = 0; s < w.segments; ++s) {
    __m256i dot[M][H];
    for (int m = 0; m < M; ++m) {
      for (int h = 0; h < H; ++h) start256(w, p, half + h, sum[m * w.segments + s], dot[m][h]);
    }
    for (int64_t line = 0; line < lines; line += kSteps) {
      const int64_t end = std::min(lines, line + kSteps);
      __m256i part[M][H];
      __m256i high[M][H];  // of 8 bits: of the upper halves
      for (int m = 0; m < M; ++m) {
        for (int h = 0; h < H; ++h) part[m][h] = high[m][h] = _mm256_setzero_si256();
      }
      for (int64_t l = line; l < end; ++l) {
        _mm_prefetch(reinterpret_cast<const char*>(p.codes + kPrefetch), _MM_HINT_T0);
        for (int h = 0; h < H; ++h) {
          const __m256i v = _mm256_load_si256(reinterpret_cast<const __m256i*>(p.codes + 32 * (half + h)));
          const __m256i first = _mm256_and_si256(v, low);
          const __m256i second = _mm256_and_si256(_mm256_srli_epi16(v, 4), low);
          for (int m = 0; m < M; ++m) {
            const __m256i b = _mm256_set1_epi32(four(a + m * x.ld));
            part[m][h] = _mm256_add_epi16(part[m][h], _mm256_maddubs_epi16(first, b));
            if constexpr (Bits == 4) {
              const __m256i c = _mm256_set1_epi32(four(a + m * x.ld + 4));
              part[m][h] = _mm256_add_epi16(part[m][h], _mm256_maddubs_epi16(second, c));
            } else {
              high[m][h] = _mm256_add_epi16(high[m][h], _mm256_maddubs_epi16(second, b));
            }
          }
        }
        p.codes += kLineBytes;
        a += Bits == 4 ? 8 : 4;
      }
      for (int m = 0; m < M; ++m) {
        for (int h = 0; h < H; ++h) {
          dot[m][h] = _mm256_add_epi32(dot[m][h], _mm256_madd_epi16(part[m][h], ones));
          if constexpr (Bits == 8) {
            const __m256i of_high = _mm256_slli_epi32(_mm256_madd_epi16(high[m][h], ones), 4);
            dot[m][h] = _mm256_add_epi32(dot[m][h], of_high);
          }
        }
      }
    }
    for (int m = 0; m < M; ++m) {
      for (int h = 0; h < H; ++h)
        finish256(w, p, half + h, dot[m][h], scale[m * w.segments + s], sum[m * w.segments + s], total[m][h]);
    }
    step(p);
  }
  for (int m = 0; m < M; ++m) {
    for (int h = 0; h < H; ++h) store256(w, tile, half + h, total[m][h], y + m * ldy);
  }
}

// ---------------------------------------------------------------- rounding

MM_AVX2 MM_INLINE __m256i magnitude(__m256 v) noexcept {
  return _mm256_and_si256(_mm256_castps_si256(v), _mm256_set1_epi32(0x7fffffff));
}

}  // namespace

MM_AVX2 void round_segments_avx2(const float* x, int64_t segments, int64_t length, int8_t* codes, float* scales,
                                 int32_t* sums) noexcept {
  for (int64_t s = 0; s < segments; ++s, x += length, codes += length) {
    __m256i largest = _mm256_setzero_si256();
    for (int64_t i = 0; i < length; i += 8) largest = _mm256_max_epi32(largest, magnitude(_mm256_loadu_ps(x + i)));
    __m128i half = _mm_max_epi32(_mm256_castsi256_si128(largest), _mm256_extracti128_si256(largest, 1));
    half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0x4e));
    half = _mm_max_epi32(half, _mm_shuffle_epi32(half, 0xb1));
    const SegmentScale scale = segment_scale(_mm_cvtsi128_si32(half));
    scales[s] = scale.scale;
    if (!scale.usable) {
      std::memset(codes, 0, static_cast<size_t>(length));
      sums[s] = 0;
      continue;
    }
    const __m256 inverse = _mm256_set1_ps(scale.inverse);
    __m256i sum = _mm256_setzero_si256();
    for (int64_t i = 0; i < length; i += 8) {
      const __m256i v = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i), inverse));
      sum = _mm256_add_epi32(sum, v);
      const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
      _mm_storel_epi64(reinterpret_cast<__m128i*>(codes + i), _mm_packs_epi16(words, words));
    }
    __m128i four_sums = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    four_sums = _mm_add_epi32(four_sums, _mm_shuffle_epi32(four_sums, 0x4e));
    four_sums = _mm_add_epi32(four_sums, _mm_shuffle_epi32(four_sums, 0xb1));
    sums[s] = _mm_cvtsi128_si32(four_sums);
  }
}

namespace {

// Calls F::run<M> for rows in blocks of at most Most.
template <template <int> class F, int Most>
void by_rows(const CodeTiles& w, int64_t tile, const RoundedRows& x, int64_t rows, float* y, int64_t ldy) noexcept {
  for (int64_t r = 0; r < rows;) {
    const int64_t n = std::min<int64_t>(Most, rows - r);
    float* to = y + r * ldy;
    switch (n) {
      case 1:
        F<1>::run(w, tile, x, r, to, ldy);
        break;
      case 2:
        F<2>::run(w, tile, x, r, to, ldy);
        break;
      case 3:
        F<3>::run(w, tile, x, r, to, ldy);
        break;
      case 4:
        F<4>::run(w, tile, x, r, to, ldy);
        break;
      default:
        if constexpr (Most > 4) {
          switch (n) {
            case 5:
              F<5>::run(w, tile, x, r, to, ldy);
              break;
            case 6:
              F<6>::run(w, tile, x, r, to, ldy);
              break;
            case 7:
              F<7>::run(w, tile, x, r, to, ldy);
              break;
            default:
              F<8>::run(w, tile, x, r, to, ldy);
              break;
          }
        }
        break;
    }
    r += n;
  }
}

template <int M>
struct Avx512Tile {
  static void run(const CodeTiles& w, int64_t tile, const RoundedRows& x, int64_t row, float* y, int64_t ldy) noexcept {
    (w.bits == 4 ? tile_avx512<M, 4> : tile_avx512<M, 8>)(w, tile, x, row, y, ldy);
  }
};

// Few rows read the codes once; more need the registers of the other half of the tile.
template <int M>
struct AvxVnniTile {
  static void run(const CodeTiles& w, int64_t tile, const RoundedRows& x, int64_t row, float* y, int64_t ldy) noexcept {
    constexpr int kHalves = M <= 2 ? 2 : 1;
    for (int64_t half = 0; half < 2; half += kHalves)
      (w.bits == 4 ? tile_avx_vnni<M, kHalves, 4> : tile_avx_vnni<M, kHalves, 8>)(w, tile, half, x, row, y, ldy);
  }
};
template <int M>
struct Avx2Tile {
  static void run(const CodeTiles& w, int64_t tile, const RoundedRows& x, int64_t row, float* y, int64_t ldy) noexcept {
    constexpr int kHalves = M <= 2 ? 2 : 1;
    for (int64_t half = 0; half < 2; half += kHalves)
      (w.bits == 4 ? tile_avx2<M, kHalves, 4> : tile_avx2<M, kHalves, 8>)(w, tile, half, x, row, y, ldy);
  }
};

}  // namespace

void multiply_codes_avx2(const CodeTiles& w, int64_t first_tile, int64_t tiles, const RoundedRows& x, int64_t rows,
                         float* y, int64_t ldy) noexcept {
  for (int64_t t = 0; t < tiles; ++t) by_rows<Avx2Tile, 4>(w, first_tile + t, x, rows, y + t * kTileOutputs, ldy);
}

void multiply_codes_avx_vnni(const CodeTiles& w, int64_t first_tile, int64_t tiles, const RoundedRows& x, int64_t rows,
                             float* y, int64_t ldy) noexcept {
  for (int64_t t = 0; t < tiles; ++t) by_rows<AvxVnniTile, 4>(w, first_tile + t, x, rows, y + t * kTileOutputs, ldy);
}

void multiply_codes_avx512_vnni(const CodeTiles& w, int64_t first_tile, int64_t tiles, const RoundedRows& x,
                                int64_t rows, float* y, int64_t ldy) noexcept {
  for (int64_t t = 0; t < tiles; ++t) by_rows<Avx512Tile, 8>(w, first_tile + t, x, rows, y + t * kTileOutputs, ldy);
}

MM_AVX512 void round_segments_avx512(const float* x, int64_t segments, int64_t length, int8_t* codes, float* scales,
                                     int32_t* sums) noexcept {
  const __m512i magnitudes = _mm512_set1_epi32(0x7fffffff);
  for (int64_t s = 0; s < segments; ++s, x += length, codes += length) {
    __m512i largest = _mm512_setzero_si512();
    for (int64_t i = 0; i < length; i += 16) {
      const __mmask16 mask = length - i >= 16 ? 0xffff : 0xff;
      const __m512i v = _mm512_castps_si512(_mm512_maskz_loadu_ps(mask, x + i));
      largest = _mm512_max_epi32(largest, _mm512_and_si512(v, magnitudes));
    }
    const SegmentScale scale = segment_scale(_mm512_reduce_max_epi32(largest));
    scales[s] = scale.scale;
    if (!scale.usable) {
      std::memset(codes, 0, static_cast<size_t>(length));
      sums[s] = 0;
      continue;
    }
    const __m512 inverse = _mm512_set1_ps(scale.inverse);
    __m512i sum = _mm512_setzero_si512();
    for (int64_t i = 0; i < length; i += 16) {
      const __mmask16 mask = length - i >= 16 ? 0xffff : 0xff;
      const __m512i v = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), inverse));
      sum = _mm512_add_epi32(sum, v);
      _mm_mask_storeu_epi8(codes + i, mask, _mm512_cvtsepi32_epi8(v));
    }
    sums[s] = _mm512_reduce_add_epi32(sum);
  }
}

}  // namespace metal_marlin::internal

#endif

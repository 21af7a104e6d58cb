// What the kernels of the integer products on x86 share. Each function carries its instruction set as an attribute: no
// flag of a file leaks into what the linker shares with code for lesser processors.
#pragma once

#include "kernels/codes/product.h"
#include "kernels/codes/tables.h"

#if defined(__x86_64__)

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"        // in GCC 12's own headers (its bug 105593)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // the same
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

// Where a segment of a tile stands: its codes, and its first output in the arrays of scales, zeros and minima.
struct Place {
  const uint8_t* codes;
  int64_t at;
};
MM_INLINE Place place_of(const CodeTiles& w, int64_t tile) noexcept {
  const int64_t at = tile * w.segments;
  return {w.codes + at * w.segment_bytes(), at * kTileOutputs};
}

// A segment of some rows, for the kernels of many rows.
struct Rows {
  const int8_t* codes;
  int64_t ld;
  const float* scales;
  const int32_t* sums;
  int64_t segments;  // stride of the two
};

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

// `left` in as few pieces of at most `most` as it takes, all about equal: the size of the first.
MM_INLINE int64_t even_piece(int64_t left, int64_t most) noexcept {
  const int64_t pieces = (left + most - 1) / most;
  return (left + pieces - 1) / pieces;
}

// The segment s that follows is read soon, in many places at once.
MM_INLINE void prefetch_rows(const int8_t* codes, int64_t ld, int64_t rows, int64_t bytes) noexcept {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < bytes; i += kLineBytes)
      _mm_prefetch(reinterpret_cast<const char*>(codes + r * ld + i), _MM_HINT_T0);
  }
}

// ---------------------------------------------------------------- 256 bits

// Scales or minima of the outputs from `at` on.
MM_AVX2 MM_INLINE __m256 scales256(const CodeTiles& w, const void* scales, int64_t at) noexcept {
  if (w.form == ScaleForm::kF32) return _mm256_loadu_ps(static_cast<const float*>(scales) + at);
  const auto* half = static_cast<const uint16_t*>(scales) + at;
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(half));
  if (w.form == ScaleForm::kBF16) return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  return _mm256_cvtph_ps(bits);
}

// Half a tile, or the two halves of one: outputs 8 (half) .. 8 (half) + 8 H.
MM_AVX2 MM_INLINE void start256(const CodeTiles& w, const Place& p, int64_t half, int32_t sum, __m256i& dot) noexcept {
  if (w.zeros == nullptr) {
    dot = _mm256_set1_epi32(-w.zero * sum);
    return;
  }
  const uint8_t* zeros = w.zeros + p.at + 8 * half;
  const __m256i zero = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(zeros)));
  dot = _mm256_mullo_epi32(zero, _mm256_set1_epi32(-sum));
}

MM_AVX2 MM_INLINE void finish256(const CodeTiles& w, const Place& p, int64_t half, __m256i dot, float scale,
                                 int32_t sum, __m256& total) noexcept {
  const __m256 factor = _mm256_mul_ps(scales256(w, w.scales, p.at + 8 * half), _mm256_set1_ps(scale));
  total = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), factor, total);
  if (w.minima == nullptr) return;
  const __m256 of_row = _mm256_set1_ps(scale * static_cast<float>(sum));
  total = _mm256_fmadd_ps(scales256(w, w.minima, p.at + 8 * half), of_row, total);
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

// ---------------------------------------------------------------- 512 bits

MM_AVX512 MM_INLINE __m512 scales512(const CodeTiles& w, const void* scales, int64_t at) noexcept {
  if (w.form == ScaleForm::kF32) return _mm512_loadu_ps(static_cast<const float*>(scales) + at);
  const auto* half = static_cast<const uint16_t*>(scales) + at;
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(half));
  if (w.form == ScaleForm::kBF16) return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  return _mm512_cvtph_ps(bits);
}

}  // namespace
}  // namespace metal_marlin::internal

#endif

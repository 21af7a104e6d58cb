// The integer products of many rows by AMX: 16 rows times 16 outputs times 64 channels in an instruction. Its sums are
// exact, so that the results have the bits of the other kernels.
#include "kernels/codes/product.h"
#include "kernels/codes/tables.h"

#if defined(__x86_64__)

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // in GCC 12's own headers (its bug 105593)
#endif
#include <immintrin.h>

#include <algorithm>
#include <cstring>

namespace metal_marlin::internal {
namespace {

#define MM_AMX __attribute__((target("amx-tile,amx-int8,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")))
#define MM_INLINE inline __attribute__((always_inline))

constexpr int64_t kStep = 64;         // channels of an instruction
constexpr int64_t kRowsAtOnce = 128;  // whose sums stay in the first cache

// The intrinsics do not say that they touch memory.
MM_INLINE void order_memory() noexcept {
  asm volatile("" ::: "memory");
}

struct alignas(64) TileShapes {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// Registers: 0..3 sums, 4 and 5 activations, 6 and 7 weights.
MM_AMX void configure(int64_t step) noexcept {
  TileShapes shapes;
  for (int i = 0; i < 4; ++i) {
    shapes.rows[i] = 16;
    shapes.row_bytes[i] = 64;
  }
  for (int i = 4; i < 6; ++i) {
    shapes.rows[i] = 16;
    shapes.row_bytes[i] = static_cast<uint16_t>(step);
  }
  for (int i = 6; i < 8; ++i) {
    shapes.rows[i] = static_cast<uint8_t>(step / 4);
    shapes.row_bytes[i] = 64;
  }
  order_memory();
  _tile_loadconfig(&shapes);
}

// Codes less their zeros, one line of 16 outputs for four channels; `padded` channels in all.
MM_AMX void decode(const CodeTiles& w, int64_t tile, int64_t s, int64_t padded, int8_t* out) noexcept {
  const int64_t at = tile * w.segments + s;
  const uint8_t* codes = w.codes + at * w.segment_bytes();
  __m512i zero = _mm512_set1_epi8(static_cast<char>(w.zero));
  if (w.zeros != nullptr) {
    const __m128i of_outputs = _mm_loadu_si128(reinterpret_cast<const __m128i*>(w.zeros + at * kTileOutputs));
    zero = _mm512_mullo_epi32(_mm512_cvtepu8_epi32(of_outputs), _mm512_set1_epi32(0x01010101));
  }
  const __m512i low = _mm512_set1_epi8(15);
  int8_t* const end = out + padded / 4 * kLineBytes;
  if (w.bits == 4) {
    for (int64_t k = 0; k < w.length; k += 8, codes += kLineBytes, out += 2 * kLineBytes) {
      const __m512i v = _mm512_load_si512(codes);
      _mm_prefetch(reinterpret_cast<const char*>(codes + 4096), _MM_HINT_T0);
      _mm512_store_si512(out, _mm512_sub_epi8(_mm512_and_si512(v, low), zero));
      _mm512_store_si512(out + kLineBytes, _mm512_sub_epi8(_mm512_and_si512(_mm512_srli_epi16(v, 4), low), zero));
    }
  } else {
    for (int64_t k = 0; k < w.length; k += 4, codes += kLineBytes, out += kLineBytes)
      _mm512_store_si512(out, _mm512_sub_epi8(_mm512_load_si512(codes), zero));
  }
  if (out < end) std::memset(out, 0, static_cast<size_t>(end - out));
}

MM_AMX MM_INLINE __m512 scales_of(const CodeTiles& w, const void* scales, int64_t at) noexcept {
  if (w.form == ScaleForm::kF32) return _mm512_loadu_ps(static_cast<const float*>(scales) + at);
  const auto* half = static_cast<const uint16_t*>(scales) + at;
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(half));
  if (w.form == ScaleForm::kBF16) return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  return _mm512_cvtph_ps(bits);
}

// 16 R rows times 16 N outputs of one segment, added to `total` [rows][32].
template <int R, int N>
MM_AMX MM_INLINE void block(const CodeTiles& w, int64_t s, int64_t padded, int64_t step, const int8_t* weights,
                            int64_t weight_bytes, const RoundedRows& x, int64_t row, const __m512* scales,
                            const __m512* minima, float* total) noexcept {
  alignas(64) int32_t sums[4][16][16];
  const int8_t* a = x.codes + row * x.ld + s * w.length;
  _tile_zero(0);
  if constexpr (N == 2) _tile_zero(1);
  if constexpr (R == 2) _tile_zero(2);
  if constexpr (R == 2 && N == 2) _tile_zero(3);
  order_memory();
  for (int64_t k = 0; k < padded; k += step) {
    _tile_loadd(6, weights + k / 4 * kLineBytes, kLineBytes);
    _tile_loadd(4, a + k, x.ld);
    _tile_dpbssd(0, 4, 6);
    if constexpr (N == 2) {
      _tile_loadd(7, weights + weight_bytes + k / 4 * kLineBytes, kLineBytes);
      _tile_dpbssd(1, 4, 7);
    }
    if constexpr (R == 2) {
      _tile_loadd(5, a + 16 * x.ld + k, x.ld);
      _tile_dpbssd(2, 5, 6);
      if constexpr (N == 2) _tile_dpbssd(3, 5, 7);
    }
  }
  _tile_stored(0, sums[0], 64);
  if constexpr (N == 2) _tile_stored(1, sums[1], 64);
  if constexpr (R == 2) _tile_stored(2, sums[2], 64);
  if constexpr (R == 2 && N == 2) _tile_stored(3, sums[3], 64);
  order_memory();
  for (int r = 0; r < R; ++r) {
    for (int i = 0; i < 16; ++i) {
      // Rows beyond the last are sums of whatever stands there and have no scale.
      const float scale = x.scales[(row + 16 * r + i) * w.segments + s];
      float* to = total + (16 * r + i) * 32;
      for (int n = 0; n < N; ++n) {
        const __m512 dot = _mm512_cvtepi32_ps(_mm512_load_si512(sums[2 * r + n][i]));
        const __m512 factor = _mm512_mul_ps(scales[n], _mm512_set1_ps(scale));
        __m512 sum = _mm512_fmadd_ps(dot, factor, _mm512_load_ps(to + 16 * n));
        if (minima != nullptr) {
          const float of_row = scale * static_cast<float>(x.sums[(row + 16 * r + i) * w.segments + s]);
          sum = _mm512_fmadd_ps(minima[n], _mm512_set1_ps(of_row), sum);
        }
        _mm512_store_ps(to + 16 * n, sum);
      }
    }
  }
}

// `count` <= kRowsAtOnce rows from `first` on, of tiles tile .. tile + N - 1.
template <int N>
MM_AMX void tiles_amx(const CodeTiles& w, int64_t tile, const RoundedRows& x, int64_t first, int64_t count, float* y,
                      int64_t ldy) noexcept {
  alignas(64) int8_t weights[2 * kLongestSegment * kTileOutputs];
  alignas(64) float total[kRowsAtOnce * 32];
  const int64_t step = std::min(w.length, kStep);
  const int64_t padded = (w.length + step - 1) / step * step;
  const int64_t weight_bytes = padded * kTileOutputs;
  const int64_t blocks = (count + kRowBlock - 1) / kRowBlock;
  std::memset(total, 0, static_cast<size_t>(blocks) * kRowBlock * 32 * sizeof(float));
  for (int64_t s = 0; s < w.segments; ++s) {
    __m512 scales[2];
    __m512 minima[2];
    for (int n = 0; n < N; ++n) {
      const int64_t at = ((tile + n) * w.segments + s) * kTileOutputs;
      decode(w, tile + n, s, padded, weights + n * weight_bytes);
      scales[n] = scales_of(w, w.scales, at);
      if (w.minima != nullptr) minima[n] = scales_of(w, w.minima, at);
    }
    order_memory();
    const __m512* of_minima = w.minima == nullptr ? nullptr : minima;
    int64_t b = 0;
    for (; b + 2 <= blocks; b += 2) {
      block<2, N>(w, s, padded, step, weights, weight_bytes, x, first + b * kRowBlock, scales, of_minima,
                  total + b * kRowBlock * 32);
    }
    if (b < blocks) {
      block<1, N>(w, s, padded, step, weights, weight_bytes, x, first + b * kRowBlock, scales, of_minima,
                  total + b * kRowBlock * 32);
    }
  }
  for (int n = 0; n < N; ++n) {
    const int64_t width = std::min(kTileOutputs, w.out_features - (tile + n) * kTileOutputs);
    const auto mask = static_cast<__mmask16>((1u << width) - 1);
    for (int64_t r = 0; r < count; ++r) {
      _mm512_mask_storeu_ps(y + (first + r) * ldy + n * kTileOutputs, mask, _mm512_load_ps(total + r * 32 + 16 * n));
    }
  }
}

}  // namespace

MM_AMX void multiply_codes_amx(const CodeTiles& w, int64_t first_tile, int64_t tiles, const RoundedRows& x,
                               int64_t rows, float* y, int64_t ldy) noexcept {
  constexpr int64_t kFewRows = 12;
  // An 8-bit code less its own zero needs 9 bits.
  if (rows <= kFewRows || (w.bits == 8 && (w.zeros != nullptr || w.zero != 128))) {
    multiply_codes_avx512_vnni(w, first_tile, tiles, x, rows, y, ldy);
    return;
  }
  configure(std::min(w.length, kStep));
  // The rows outside: their activations stay in the second cache while the weights pass by.
  for (int64_t first = 0; first < rows; first += kRowsAtOnce) {
    const int64_t count = std::min(kRowsAtOnce, rows - first);
    for (int64_t t = 0; t < tiles; t += 2) {
      (t + 2 <= tiles ? tiles_amx<2> : tiles_amx<1>)(w, first_tile + t, x, first, count, y + t * kTileOutputs, ldy);
    }
  }
  _tile_release();
}

}  // namespace metal_marlin::internal

#endif

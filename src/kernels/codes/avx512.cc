// The integer products by AVX-512 with VNNI: few rows, and rounding. Many rows are in avx512_rows.cc.
#include "kernels/codes/x86_inl.h"

#if defined(__x86_64__)

namespace metal_marlin::internal {
namespace {

constexpr int kAtOnce = 8;         // rows that read the codes once
constexpr int64_t kManyRows = 32;  // from here on it pays to decode the codes first

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
    if (w.zeros != nullptr) {
      const __m128i zeros = _mm_loadu_si128(reinterpret_cast<const __m128i*>(w.zeros + p.at));
      const __m512i zero = _mm512_cvtepu8_epi32(zeros);
      for (int m = 0; m < M; ++m) dot[m] = _mm512_mullo_epi32(zero, _mm512_set1_epi32(-sum[m * w.segments + s]));
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
    const __m512 of_weight = scales512(w, w.scales, p.at);
    for (int m = 0; m < M; ++m) {
      const __m512 factor = _mm512_mul_ps(of_weight, _mm512_set1_ps(scale[m * w.segments + s]));
      total[m] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_add_epi32(dot[m], more[m])), factor, total[m]);
    }
    if (w.minima != nullptr) {
      const __m512 minimum = scales512(w, w.minima, p.at);
      for (int m = 0; m < M; ++m) {
        const float of_row = scale[m * w.segments + s] * static_cast<float>(sum[m * w.segments + s]);
        total[m] = _mm512_fmadd_ps(minimum, _mm512_set1_ps(of_row), total[m]);
      }
    }
    p.at += kTileOutputs;
  }
  const int64_t width = std::min(kTileOutputs, w.out_features - tile * kTileOutputs);
  const auto mask = static_cast<__mmask16>((1u << width) - 1);
  for (int m = 0; m < M; ++m) _mm512_mask_storeu_ps(y + m * ldy, mask, total[m]);
}

template <int M>
struct Avx512Tile {
  static void run(const CodeTiles& w, int64_t tile, const RoundedRows& x, int64_t row, float* y, int64_t ldy) noexcept {
    (w.bits == 4 ? tile_avx512<M, 4> : tile_avx512<M, 8>)(w, tile, x, row, y, ldy);
  }
};

}  // namespace

void multiply_codes_avx512_vnni(const CodeTiles& w, int64_t first_tile, int64_t tiles, const RoundedRows& x,
                                int64_t rows, float* y, int64_t ldy) noexcept {
  if (rows >= kManyRows) return multiply_rows_avx512_vnni(w, first_tile, tiles, x, rows, y, ldy);
  for (int64_t t = 0; t < tiles; ++t)
    by_rows<Avx512Tile, kAtOnce>(w, first_tile + t, x, rows, y + t * kTileOutputs, ldy);
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

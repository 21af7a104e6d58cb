// The integer products by AVX2 and by AVX-VNNI: few rows, and rounding. Many rows are in avx2_rows.cc.
#include "kernels/codes/x86_inl.h"

#if defined(__x86_64__)

namespace metal_marlin::internal {
namespace {

constexpr int kFewRows = 4;

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
    p.at += kTileOutputs;
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
    p.at += kTileOutputs;
  }
  for (int m = 0; m < M; ++m) {
    for (int h = 0; h < H; ++h) store256(w, tile, half + h, total[m][h], y + m * ldy);
  }
}

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

void multiply_codes_avx2(const CodeTiles& w, int64_t first_tile, int64_t tiles, const RoundedRows& x, int64_t rows,
                         float* y, int64_t ldy) noexcept {
  if (rows > kFewRows && w.bits == 4) return multiply_rows_avx2(w, first_tile, tiles, x, rows, y, ldy);
  for (int64_t t = 0; t < tiles; ++t)
    by_rows<Avx2Tile, kFewRows>(w, first_tile + t, x, rows, y + t * kTileOutputs, ldy);
}

void multiply_codes_avx_vnni(const CodeTiles& w, int64_t first_tile, int64_t tiles, const RoundedRows& x, int64_t rows,
                             float* y, int64_t ldy) noexcept {
  if (rows > kFewRows) return multiply_rows_avx_vnni(w, first_tile, tiles, x, rows, y, ldy);
  for (int64_t t = 0; t < tiles; ++t)
    by_rows<AvxVnniTile, kFewRows>(w, first_tile + t, x, rows, y + t * kTileOutputs, ldy);
}

}  // namespace metal_marlin::internal

#endif

// The integer products of many rows by AVX2 and by AVX-VNNI. The codes of a segment are decoded once for up to
// kRowsAtOnce rows; then up to six rows meet 16 outputs at a time, whose twelve sums stay in registers.
#include <iterator>

#include "kernels/codes/x86_inl.h"

#if defined(__x86_64__)

namespace metal_marlin::internal {
namespace {

constexpr int64_t kRowsAtOnce = 48;  // their sums, their segment and the decoded codes stay in the first cache
constexpr int64_t kTilesAtOnce = 2;
constexpr int kMostRows = 6;
constexpr int64_t kTotals = kTilesAtOnce * kTileOutputs;  // floats of a row of sums

// A segment of a tile; [2]: the halves of the tile.
struct Segment {
  const uint8_t* codes;  // a byte each: [length / 4][64]
  int64_t length;
  __m256 scale[2];
  __m256 zero[2];
  __m256 minimum[2];
  bool minima;
};

MM_AVX2 void decode(const uint8_t* codes, int64_t length, uint8_t* out) noexcept {
  const __m256i low = _mm256_set1_epi8(15);
  for (int64_t k = 0; k < length; k += 8, codes += kLineBytes, out += 2 * kLineBytes) {
    _mm_prefetch(reinterpret_cast<const char*>(codes + kPrefetch), _MM_HINT_T0);
    for (int h = 0; h < 2; ++h) {
      const __m256i v = _mm256_load_si256(reinterpret_cast<const __m256i*>(codes + 32 * h));
      _mm256_store_si256(reinterpret_cast<__m256i*>(out + 32 * h), _mm256_and_si256(v, low));
      _mm256_store_si256(reinterpret_cast<__m256i*>(out + kLineBytes + 32 * h),
                         _mm256_and_si256(_mm256_srli_epi16(v, 4), low));
    }
  }
}

MM_AVX2 void load_segment(const CodeTiles& w, int64_t at, Segment& s) noexcept {
  s.length = w.length;
  s.minima = w.minima != nullptr;
  for (int64_t h = 0; h < 2; ++h) {
    const int64_t first = at * kTileOutputs + 8 * h;
    s.scale[h] = scales256(w, w.scales, first);
    s.minimum[h] = s.minima ? scales256(w, w.minima, first) : _mm256_setzero_ps();
    if (w.zeros == nullptr) {
      s.zero[h] = _mm256_set1_ps(static_cast<float>(w.zero));
    } else {
      const __m128i zeros = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(w.zeros + first));
      s.zero[h] = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(zeros));
    }
  }
}

// Adds the segment to the sums of a row. Both parts of dot - zero * sum are integers below 2^23, so that floats hold
// them and their difference exactly.
MM_AVX2 MM_INLINE void add_segment(const Segment& s, const __m256i (&dot)[2], const float* scale, const int32_t* sum,
                                   float* total) noexcept {
  const __m256 of_row = _mm256_broadcast_ss(scale);
  const __m256 row_sum = _mm256_cvtepi32_ps(_mm256_set1_epi32(*sum));
  for (int h = 0; h < 2; ++h) {
    const __m256 exact = _mm256_fnmadd_ps(s.zero[h], row_sum, _mm256_cvtepi32_ps(dot[h]));
    __m256 t = _mm256_fmadd_ps(exact, _mm256_mul_ps(s.scale[h], of_row), _mm256_load_ps(total + 8 * h));
    if (s.minima) t = _mm256_fmadd_ps(s.minimum[h], _mm256_mul_ps(of_row, row_sum), t);
    _mm256_store_ps(total + 8 * h, t);
  }
}

MM_AVX2 MM_INLINE __m256i codes256(const uint8_t* at) noexcept {
  return _mm256_load_si256(reinterpret_cast<const __m256i*>(at));
}

// The functions that call themselves for the next row stand for loops over the rows of a block: the compiler unrolls
// such loops too late and keeps all sums in memory.
template <int M, int I = 0>
MM_AVX2 MM_INLINE void add_segments(const Segment& s, const __m256i (&dot)[M][2], const Rows& rows,
                                    float* total) noexcept {
  if constexpr (I < M) {
    add_segment(s, dot[I], rows.scales + I * rows.segments, rows.sums + I * rows.segments, total + I * kTotals);
    add_segments<M, I + 1>(s, dot, rows, total);
  }
}

// Left to itself, the compiler does the products of all rows first and runs out of registers.
MM_AVX2 MM_INLINE void after(__m256i& a, __m256i& b) noexcept {
  asm volatile("" : "+x"(a), "+x"(b));
}

// Adds a segment to total [M][kTotals] of M rows.
using Block = void (*)(const Segment& s, const Rows& rows, float* total) noexcept;

// Four channels of 16 outputs.
template <int M, bool First, int I = 0>
MM_AVX2 MM_INLINE void step_avx2(__m256i first, __m256i second, const int8_t* a, int64_t ld,
                                 __m256i (&part)[M][2]) noexcept {
  if constexpr (I < M) {
    const __m256i b = _mm256_set1_epi32(four(a + I * ld));
    const __m256i low = _mm256_maddubs_epi16(first, b);
    const __m256i high = _mm256_maddubs_epi16(second, b);
    part[I][0] = First ? low : _mm256_add_epi16(part[I][0], low);
    part[I][1] = First ? high : _mm256_add_epi16(part[I][1], high);
    after(part[I][0], part[I][1]);
    step_avx2<M, First, I + 1>(first, second, a, ld, part);
  }
}

// The sums of 16 bits to those of 32.
template <int M, bool First, int I = 0>
MM_AVX2 MM_INLINE void flush_avx2(const __m256i (&part)[M][2], __m256i (&dot)[M][2]) noexcept {
  if constexpr (I < M) {
    const __m256i ones = _mm256_set1_epi16(1);
    const __m256i low = _mm256_madd_epi16(part[I][0], ones);
    const __m256i high = _mm256_madd_epi16(part[I][1], ones);
    dot[I][0] = First ? low : _mm256_add_epi32(dot[I][0], low);
    dot[I][1] = First ? high : _mm256_add_epi32(dot[I][1], high);
    flush_avx2<M, First, I + 1>(part, dot);
  }
}

template <int M, bool First, int I = 0>
MM_AVX_VNNI MM_INLINE void step_avx_vnni(__m256i first, __m256i second, const int8_t* a, int64_t ld,
                                         __m256i (&part)[M][2]) noexcept {
  if constexpr (I < M) {
    const __m256i b = _mm256_set1_epi32(four(a + I * ld));
    part[I][0] = _mm256_dpbusd_avx_epi32(First ? _mm256_setzero_si256() : part[I][0], first, b);
    part[I][1] = _mm256_dpbusd_avx_epi32(First ? _mm256_setzero_si256() : part[I][1], second, b);
    after(part[I][0], part[I][1]);
    step_avx_vnni<M, First, I + 1>(first, second, a, ld, part);
  }
}

// 16-bit sums of 4-bit codes over at most 32 channels: 15 * 127 * 2 * 8 = 30480.
template <int M>
MM_AVX2 void block_avx2(const Segment& s, const Rows& rows, float* total) noexcept {
  constexpr int64_t kChannels = 32;
  const uint8_t* w = s.codes;
  const int8_t* a = rows.codes;
  __m256i dot[M][2];
  for (int64_t k = 0; k < s.length; k += kChannels) {
    __m256i part[M][2];
    step_avx2<M, true>(codes256(w), codes256(w + 32), a, rows.ld, part);
    w += kLineBytes;
    a += 4;
    for (int64_t i = std::min(s.length - k, kChannels) / 4 - 1; i > 0; --i, w += kLineBytes, a += 4)
      step_avx2<M, false>(codes256(w), codes256(w + 32), a, rows.ld, part);
    if (k == 0) {
      flush_avx2<M, true>(part, dot);
    } else {
      flush_avx2<M, false>(part, dot);
    }
  }
  add_segments<M>(s, dot, rows, total);
}

template <int M>
MM_AVX_VNNI void block_avx_vnni(const Segment& s, const Rows& rows, float* total) noexcept {
  const uint8_t* w = s.codes;
  const int8_t* a = rows.codes;
  __m256i part[M][2];
  step_avx_vnni<M, true>(codes256(w), codes256(w + 32), a, rows.ld, part);
  for (int64_t i = s.length / 4 - 1; i > 0; --i) {
    w += kLineBytes;
    a += 4;
    step_avx_vnni<M, false>(codes256(w), codes256(w + 32), a, rows.ld, part);
  }
  add_segments<M>(s, part, rows, total);
}

constexpr Block kAvx2Blocks[] = {block_avx2<1>, block_avx2<2>, block_avx2<3>,
                                 block_avx2<4>, block_avx2<5>, block_avx2<6>};
constexpr Block kAvxVnniBlocks[] = {block_avx_vnni<1>, block_avx_vnni<2>, block_avx_vnni<3>,
                                    block_avx_vnni<4>, block_avx_vnni<5>, block_avx_vnni<6>};
static_assert(std::size(kAvx2Blocks) == kMostRows && std::size(kAvxVnniBlocks) == kMostRows);

void multiply_rows(const Block* blocks, const CodeTiles& w, int64_t first_tile, int64_t tiles, const RoundedRows& x,
                   int64_t rows, float* y, int64_t ldy) noexcept {
  alignas(64) uint8_t decoded[kTilesAtOnce][kLongestSegment * kTileOutputs];
  alignas(64) float total[kRowsAtOnce * kTotals];
  for (int64_t first = 0; first < rows;) {
    const int64_t count = even_piece(rows - first, kRowsAtOnce);
    for (int64_t t = 0; t < tiles; t += kTilesAtOnce) {
      const int64_t n = std::min(kTilesAtOnce, tiles - t);
      std::fill(total, total + count * kTotals, 0.0f);
      for (int64_t s = 0; s < w.segments; ++s) {
        const int8_t* codes = x.codes + first * x.ld + s * w.length;
        prefetch_rows(codes + w.length, x.ld, count, w.length);
        Segment segment[kTilesAtOnce];
        for (int64_t i = 0; i < n; ++i) {
          const int64_t at = (first_tile + t + i) * w.segments + s;
          load_segment(w, at, segment[i]);
          segment[i].codes = w.codes + at * w.segment_bytes();
          if (w.bits == 4) {
            decode(segment[i].codes, w.length, decoded[i]);
            segment[i].codes = decoded[i];
          }
        }
        for (int64_t r = 0; r < count;) {
          const int64_t m = even_piece(count - r, kMostRows);
          const int64_t at = (first + r) * w.segments + s;
          const Rows of{codes + r * x.ld, x.ld, x.scales + at, x.sums + at, w.segments};
          for (int64_t i = 0; i < n; ++i) blocks[m - 1](segment[i], of, total + r * kTotals + i * kTileOutputs);
          r += m;
        }
      }
      for (int64_t r = 0; r < count; ++r) {
        const int64_t width = std::min(n * kTileOutputs, w.out_features - (first_tile + t) * kTileOutputs);
        std::memcpy(y + (first + r) * ldy + t * kTileOutputs, total + r * kTotals,
                    static_cast<size_t>(width) * sizeof(float));
      }
    }
    first += count;
  }
}

}  // namespace

void multiply_rows_avx2(const CodeTiles& w, int64_t first_tile, int64_t tiles, const RoundedRows& x, int64_t rows,
                        float* y, int64_t ldy) noexcept {
  multiply_rows(kAvx2Blocks, w, first_tile, tiles, x, rows, y, ldy);
}

void multiply_rows_avx_vnni(const CodeTiles& w, int64_t first_tile, int64_t tiles, const RoundedRows& x, int64_t rows,
                            float* y, int64_t ldy) noexcept {
  multiply_rows(kAvxVnniBlocks, w, first_tile, tiles, x, rows, y, ldy);
}

}  // namespace metal_marlin::internal

#endif

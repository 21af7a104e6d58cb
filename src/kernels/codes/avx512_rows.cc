// The integer products of many rows by AVX-512 with VNNI. The codes of a segment are decoded once for up to kRowsAtOnce
// rows; then up to twelve rows meet two tiles of outputs at a time, whose 24 sums stay in registers.
#include <iterator>

#include "kernels/codes/x86_inl.h"

#if defined(__x86_64__)

namespace metal_marlin::internal {
namespace {

constexpr int64_t kRowsAtOnce = 48;  // their sums, their segment and the decoded codes stay in the first cache
constexpr int64_t kTiles = 2;        // of a block
constexpr int kMostRows = 12;
constexpr int64_t kTotals = kTiles * kTileOutputs;  // floats of a row of sums

// A segment of two tiles.
struct Segment {
  const uint8_t* codes[kTiles];  // a byte each: [length / 4][64]
  int64_t length;
  __m512 scale[kTiles];
  __m512 zero[kTiles];
  __m512 minimum[kTiles];
  bool minima;
};

MM_AVX512 void decode(const uint8_t* codes, int64_t length, uint8_t* out) noexcept {
  const __m512i low = _mm512_set1_epi8(15);
  for (int64_t k = 0; k < length; k += 8, codes += kLineBytes, out += 2 * kLineBytes) {
    _mm_prefetch(reinterpret_cast<const char*>(codes + kPrefetch), _MM_HINT_T0);
    const __m512i v = _mm512_load_si512(codes);
    _mm512_store_si512(out, _mm512_and_si512(v, low));
    _mm512_store_si512(out + kLineBytes, _mm512_and_si512(_mm512_srli_epi16(v, 4), low));
  }
}

MM_AVX512 void load_segment(const CodeTiles& w, int64_t at, int64_t tile, Segment& s) noexcept {
  s.length = w.length;
  s.minima = w.minima != nullptr;
  const int64_t first = at * kTileOutputs;
  s.scale[tile] = scales512(w, w.scales, first);
  s.minimum[tile] = s.minima ? scales512(w, w.minima, first) : _mm512_setzero_ps();
  if (w.zeros == nullptr) {
    s.zero[tile] = _mm512_set1_ps(static_cast<float>(w.zero));
  } else {
    const __m128i zeros = _mm_loadu_si128(reinterpret_cast<const __m128i*>(w.zeros + first));
    s.zero[tile] = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(zeros));
  }
}

// The functions that call themselves for the next row stand for loops over the rows of a block: the compiler unrolls
// such loops too late and keeps all sums in memory.

// Adds the segment to the sums of M rows. Both parts of dot - zero * sum are integers below 2^23, so that floats hold
// them and their difference exactly.
template <int M, int I = 0>
MM_AVX512 MM_INLINE void add_segments(const Segment& s, const __m512i (&dot)[M][kTiles], const Rows& rows,
                                      float* total) noexcept {
  if constexpr (I < M) {
    const __m512 scale = _mm512_set1_ps(rows.scales[I * rows.segments]);
    const __m512 sum = _mm512_cvtepi32_ps(_mm512_set1_epi32(rows.sums[I * rows.segments]));
    for (int64_t t = 0; t < kTiles; ++t) {
      float* to = total + I * kTotals + t * kTileOutputs;
      const __m512 exact = _mm512_fnmadd_ps(s.zero[t], sum, _mm512_cvtepi32_ps(dot[I][t]));
      __m512 y = _mm512_fmadd_ps(exact, _mm512_mul_ps(s.scale[t], scale), _mm512_load_ps(to));
      if (s.minima) y = _mm512_fmadd_ps(s.minimum[t], _mm512_mul_ps(scale, sum), y);
      _mm512_store_ps(to, y);
    }
    add_segments<M, I + 1>(s, dot, rows, total);
  }
}

// Left to itself, the compiler does the products of all rows first and runs out of registers.
MM_AVX512 MM_INLINE void after(__m512i& a, __m512i& b) noexcept {
  asm volatile("" : "+v"(a), "+v"(b));
}

// Four channels of 32 outputs.
template <int M, bool First, int I = 0>
MM_AVX512_VNNI MM_INLINE void step(__m512i first, __m512i second, const int8_t* a, int64_t ld,
                                   __m512i (&part)[M][kTiles]) noexcept {
  if constexpr (I < M) {
    const __m512i b = _mm512_set1_epi32(four(a + I * ld));
    part[I][0] = _mm512_dpbusd_epi32(First ? _mm512_setzero_si512() : part[I][0], first, b);
    part[I][1] = _mm512_dpbusd_epi32(First ? _mm512_setzero_si512() : part[I][1], second, b);
    after(part[I][0], part[I][1]);
    step<M, First, I + 1>(first, second, a, ld, part);
  }
}

// Adds a segment to total [M][kTotals] of M rows.
using Block = void (*)(const Segment& s, const Rows& rows, float* total) noexcept;

template <int M>
MM_AVX512_VNNI void block(const Segment& s, const Rows& rows, float* total) noexcept {
  const uint8_t* w = s.codes[0];
  const uint8_t* v = s.codes[1];
  const int8_t* a = rows.codes;
  __m512i part[M][kTiles];
  step<M, true>(_mm512_load_si512(w), _mm512_load_si512(v), a, rows.ld, part);
  for (int64_t i = s.length / 4 - 1; i > 0; --i) {
    w += kLineBytes;
    v += kLineBytes;
    a += 4;
    step<M, false>(_mm512_load_si512(w), _mm512_load_si512(v), a, rows.ld, part);
  }
  add_segments<M>(s, part, rows, total);
}

constexpr Block kBlocks[] = {block<1>, block<2>, block<3>, block<4>,  block<5>,  block<6>,
                             block<7>, block<8>, block<9>, block<10>, block<11>, block<12>};
static_assert(std::size(kBlocks) == kMostRows);

}  // namespace

void multiply_rows_avx512_vnni(const CodeTiles& w, int64_t first_tile, int64_t tiles, const RoundedRows& x,
                               int64_t rows, float* y, int64_t ldy) noexcept {
  alignas(64) uint8_t decoded[kTiles][kLongestSegment * kTileOutputs];
  alignas(64) float total[kRowsAtOnce * kTotals];
  for (int64_t first = 0; first < rows;) {
    const int64_t count = even_piece(rows - first, kRowsAtOnce);
    for (int64_t t = 0; t < tiles; t += kTiles) {
      const int64_t n = std::min(kTiles, tiles - t);
      std::fill(total, total + count * kTotals, 0.0f);
      for (int64_t s = 0; s < w.segments; ++s) {
        const int8_t* codes = x.codes + first * x.ld + s * w.length;
        prefetch_rows(codes + w.length, x.ld, count, w.length);
        Segment segment;
        for (int64_t i = 0; i < kTiles; ++i) {
          // A last tile without a neighbour is its own, of which nothing is stored.
          const int64_t at = (first_tile + t + std::min(i, n - 1)) * w.segments + s;
          load_segment(w, at, i, segment);
          segment.codes[i] = w.codes + at * w.segment_bytes();
          if (w.bits == 4) {
            decode(segment.codes[i], w.length, decoded[i]);
            segment.codes[i] = decoded[i];
          }
        }
        for (int64_t r = 0; r < count;) {
          const int64_t m = even_piece(count - r, kMostRows);
          const int64_t at = (first + r) * w.segments + s;
          kBlocks[m - 1](segment, {codes + r * x.ld, x.ld, x.scales + at, x.sums + at, w.segments},
                         total + r * kTotals);
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

}  // namespace metal_marlin::internal

#endif

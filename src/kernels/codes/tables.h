// The functions of the rows of kernels.h, and what they share. Internal to kernels/.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>

#include "kernels/codes/product.h"

namespace metal_marlin::internal {

// Of a segment of activations whose largest magnitude has these bits.
struct SegmentScale {
  float scale = 0;
  float inverse = 0;
  bool usable = false;  // false: all codes are 0
};
inline SegmentScale segment_scale(int32_t largest_bits) noexcept {
  constexpr int32_t kInfinite = 0x7f800000;
  constexpr float kLeast = 0x1p-100f;  // smaller values count as zeros: 127 / x stays finite
  if (largest_bits >= kInfinite) return {std::numeric_limits<float>::quiet_NaN(), 0, false};
  const auto largest = std::bit_cast<float>(largest_bits);
  if (largest < kLeast) return {};
  return {largest / 127.0f, 127.0f / largest, true};
}

void round_segments_scalar(const float* x, int64_t segments, int64_t length, int8_t* codes, float* scales,
                           int32_t* sums) noexcept;
void round_segments_avx2(const float* x, int64_t segments, int64_t length, int8_t* codes, float* scales,
                         int32_t* sums) noexcept;
void round_segments_avx512(const float* x, int64_t segments, int64_t length, int8_t* codes, float* scales,
                           int32_t* sums) noexcept;
void multiply_codes_scalar(const CodeTiles& w, int64_t first_tile, int64_t tiles, const RoundedRows& x, int64_t rows,
                           float* y, int64_t ldy) noexcept;
void multiply_codes_avx2(const CodeTiles& w, int64_t first_tile, int64_t tiles, const RoundedRows& x, int64_t rows,
                         float* y, int64_t ldy) noexcept;
void multiply_codes_avx_vnni(const CodeTiles& w, int64_t first_tile, int64_t tiles, const RoundedRows& x, int64_t rows,
                             float* y, int64_t ldy) noexcept;
// Of more than a few rows; that of AVX2 of 4-bit codes alone.
void multiply_rows_avx2(const CodeTiles& w, int64_t first_tile, int64_t tiles, const RoundedRows& x, int64_t rows,
                        float* y, int64_t ldy) noexcept;
void multiply_rows_avx_vnni(const CodeTiles& w, int64_t first_tile, int64_t tiles, const RoundedRows& x, int64_t rows,
                            float* y, int64_t ldy) noexcept;
void multiply_rows_avx512_vnni(const CodeTiles& w, int64_t first_tile, int64_t tiles, const RoundedRows& x,
                               int64_t rows, float* y, int64_t ldy) noexcept;
void multiply_codes_avx512_vnni(const CodeTiles& w, int64_t first_tile, int64_t tiles, const RoundedRows& x,
                                int64_t rows, float* y, int64_t ldy) noexcept;
void multiply_codes_amx(const CodeTiles& w, int64_t first_tile, int64_t tiles, const RoundedRows& x, int64_t rows,
                        float* y, int64_t ldy) noexcept;

void round_segments_neon(const float* x, int64_t segments, int64_t length, int8_t* codes, float* scales,
                         int32_t* sums) noexcept;
void multiply_codes_neon(const CodeTiles& w, int64_t first_tile, int64_t tiles, const RoundedRows& x, int64_t rows,
                         float* y, int64_t ldy) noexcept;
void multiply_codes_neon_dot(const CodeTiles& w, int64_t first_tile, int64_t tiles, const RoundedRows& x, int64_t rows,
                             float* y, int64_t ldy) noexcept;
void multiply_codes_neon_i8mm(const CodeTiles& w, int64_t first_tile, int64_t tiles, const RoundedRows& x, int64_t rows,
                              float* y, int64_t ldy) noexcept;

}  // namespace metal_marlin::internal

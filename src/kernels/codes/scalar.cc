// The plain loops of the integer products.
#include <algorithm>
#include <bit>
#include <cmath>

#include "core/half.h"
#include "kernels/codes/product.h"
#include "kernels/codes/tables.h"

namespace metal_marlin::internal {
namespace {

float scale_of(const CodeTiles& w, const void* scales, int64_t at) noexcept {
  if (w.form == ScaleForm::kF32) return static_cast<const float*>(scales)[at];
  const uint16_t bits = static_cast<const uint16_t*>(scales)[at];
  return w.form == ScaleForm::kBF16 ? bf16_to_f32(bits) : f16_to_f32(bits);
}

int32_t code_of(const CodeTiles& w, const uint8_t* segment, int64_t output, int64_t k) noexcept {
  if (w.bits == 8) return segment[k / 4 * kLineBytes + 4 * output + k % 4];
  const int byte = segment[k / 8 * kLineBytes + 4 * output + k % 4];
  return k % 8 < 4 ? byte & 15 : byte >> 4;
}

}  // namespace

void round_segments_scalar(const float* x, int64_t segments, int64_t length, int8_t* codes, float* scales,
                           int32_t* sums) noexcept {
  for (int64_t s = 0; s < segments; ++s, x += length, codes += length) {
    // By their bits, magnitudes are ordered as integers, and Inf and NaN stand above all others.
    int32_t largest_bits = 0;
    for (int64_t i = 0; i < length; ++i)
      largest_bits = std::max(largest_bits, std::bit_cast<int32_t>(x[i]) & 0x7fffffff);
    const SegmentScale scale = segment_scale(largest_bits);
    int32_t sum = 0;
    for (int64_t i = 0; i < length; ++i) {
      const float scaled = scale.usable ? x[i] * scale.inverse : 0.0f;
      codes[i] = static_cast<int8_t>(std::nearbyint(scaled));
      sum += codes[i];
    }
    scales[s] = scale.scale;
    sums[s] = sum;
  }
}

void multiply_codes_scalar(const CodeTiles& w, int64_t first_tile, int64_t tiles, const RoundedRows& x, int64_t rows,
                           float* y, int64_t ldy) noexcept {
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t tile = first_tile + t;
    const int64_t width = std::min(kTileOutputs, w.out_features - tile * kTileOutputs);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t o = 0; o < width; ++o) {
        float sum = 0;
        for (int64_t s = 0; s < w.segments; ++s) {
          const int64_t at = tile * w.segments + s;
          const uint8_t* segment = w.codes + at * w.segment_bytes();
          const int8_t* a = x.codes + r * x.ld + s * w.length;
          int32_t dot = 0;
          for (int64_t k = 0; k < w.length; ++k) dot += a[k] * code_of(w, segment, o, k);
          const int32_t zero = w.zeros == nullptr ? w.zero : w.zeros[at * kTileOutputs + o];
          const float scale = x.scales[r * w.segments + s];
          const int32_t of_row = x.sums[r * w.segments + s];
          sum = std::fma(static_cast<float>(dot - zero * of_row), scale_of(w, w.scales, at * kTileOutputs + o) * scale,
                         sum);
          if (w.minima != nullptr) {
            sum = std::fma(scale_of(w, w.minima, at * kTileOutputs + o), scale * static_cast<float>(of_row), sum);
          }
        }
        y[r * ldy + t * kTileOutputs + o] = sum;
      }
    }
  }
}

}  // namespace metal_marlin::internal

// Products with weights that stay integers: rows of activations rounded to 8 bits, times codes of at most 4 or 8 bits.
//
// A row's input channels are cut into segments of `length` channels (a multiple of 8, at most 128), each inside one
// group of the weight; channels that a short segment lacks are zeros of the activations. With the codes a of a row of
// activations, the codes c of an output, and their scales:
//
//   dot[s] = sum over the segment of a c            exact, in 32 bits
//   y      = y + (dot[s] - zero[s] sum[s]) * (weight_scale[s] * activation_scale[s])     fused multiply and add
//   y      = y + minimum[s] * (activation_scale[s] * sum[s])                             where there are minima
//
// for s = 0, 1, ... in this order, sum[s] being the sum of a. So a result has the same bits on every instruction set,
// for every number of rows, and however the outputs are shared between threads.
//
// Outputs stand in tiles of 16, side by side, so that one broadcast of four activations serves 16 of them. Byte of a
// segment of tile t, of output 16 t + o and channel k of the segment:
//   4 bits: 64 (k / 8) + 4 o + k % 4, in its low half for k % 8 < 4, else in its high one
//   8 bits: 64 (k / 4) + 4 o + k % 4
#pragma once

#include <cstdint>

namespace metal_marlin {

inline constexpr int64_t kTileOutputs = 16;
inline constexpr int64_t kLineBytes = 64;  // of 8 channels in 4 bits, or of 4 in 8 bits
inline constexpr int64_t kLongestSegment = 128;
// Some kernels read whole blocks of rows, and bytes beyond the last code of a row; they do not use what stands there.
inline constexpr int64_t kRowBlock = 16;
inline constexpr int64_t kRowSlack = 64;

// Activations in 8 bits, -127 .. 127. All arrays are readable up to a multiple of kRowBlock rows.
struct RoundedRows {
  const int8_t* codes = nullptr;  // row r at codes + r * ld
  int64_t ld = 0;                 // at least segments * length + kRowSlack
  const float* scales = nullptr;  // [rows, segments]
  const int32_t* sums = nullptr;  // [rows, segments] sum of the codes
};

// How scales and minima are kept: as the checkpoint stores them where it stores 16 bits, in float32 where they are
// products of two stored numbers (K-quants).
enum class ScaleForm : uint8_t { kF16, kBF16, kF32 };

// Weights in the order given above; arrays by [tile][segment].
struct CodeTiles {
  const uint8_t* codes = nullptr;  // 64-byte aligned
  const void* scales = nullptr;    // [.., 16] of `form`
  const uint8_t* zeros = nullptr;  // [.., 16]; null: `zero` for all
  const void* minima = nullptr;    // [.., 16] of `form`; null: none
  int bits = 4;                    // of a stored code: 4 or 8
  int32_t zero = 0;
  ScaleForm form = ScaleForm::kF16;
  int64_t segments = 0;
  int64_t length = 0;
  int64_t out_features = 0;  // the last tile may be short

  int64_t segment_bytes() const noexcept { return length / 8 * kLineBytes * (bits / 4); }
};

}  // namespace metal_marlin

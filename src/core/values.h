// The values that the stages hand to each other: ActivationStats -> ScalePlan -> QuantizedTensor.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/tensor.h"

namespace metal_marlin {

// The input that some linears of a block share. In this order they are met in a block.
enum class LinearInput : uint8_t { kQkv, kO, kGateUp, kDown };
inline constexpr int kLinearInputs = 4;
const char* input_name(LinearInput input) noexcept;  // "qkv", "o", "gate_up", "down"

// Statistics of one input x [tokens, in_features].
struct ActivationStats {
  int64_t in_features = 0;
  uint64_t tokens = 0;
  std::vector<float> mean;  // [K] mean of |x|
  std::vector<float> max;   // [K] max of |x|
  std::vector<float> rms;   // [K] sqrt(mean of x^2)
  Matrix gram;              // [K, K] mean of x x^T, symmetric, both halves filled; empty when it was not asked for
  Matrix first_rows;        // [sequences, K] x of each sequence's first token; empty when they are not known
};

// The 16-bit float in which the scale (and the minimum) of a group is stored.
enum class ScaleType : uint8_t { kF16, kBF16 };

// What a ScaleType can hold, by value: rounding to it needs no case distinction.
struct ScaleRange {
  float least;       // smallest normal: readers that flush subnormals agree
  float largest;     // largest finite
  int dropped_bits;  // of a float32's mantissa
};
constexpr ScaleRange scale_range(ScaleType type) noexcept {
  return type == ScaleType::kF16 ? ScaleRange{0x1p-14f, 65504.0f, 13} : ScaleRange{0x1p-126f, 0x1.fep127f, 16};
}
uint16_t encode_scale(float value, ScaleType type) noexcept;  // to nearest, ties to even
float decode_scale(uint16_t bits, ScaleType type) noexcept;

// A grid of values on which weights are rounded: what of a group is free, and how it is stored. The search for ranges,
// the rounding, GPTQ, the refinement and the errors take it as an argument and know no other. Codes are c = 0 .. 2^bits
// - 1.
//
//   symmetric          w = (c - 2^(bits-1)) S           S free             e.g. -8..7 (GGUF's Q4_0: groups of 32)
//   not symmetric      w = (c - z) S                    S and z free       z one of the codes
//   with a minimum     w = c S + m                      S and m free       GGUF's Q4_1; MLX's affine scale and bias
//
// S may be negative in each of them. One scale for a row is group_size -1.
//
// With `block` the weights are rounded to blocks of that ggml type (quantize/blocks/blocks.h), whose scales have fewer
// bits than S here or whose levels are not even; the other fields are then the nearest of these grids, on which scales
// are searched and the rounding is chosen.
struct Grid {
  int bits = 4;
  bool symmetric = true;
  int64_t group_size = 128;                // along in_features; -1: the whole row
  bool minimum = false;                    // then symmetric is false
  ScaleType scale_type = ScaleType::kF16;  // of S and m
  std::optional<GgmlType> block;

  bool operator==(const Grid&) const = default;
  int levels() const noexcept { return 1 << bits; }
  int64_t group_of(int64_t in_features) const noexcept { return group_size < 0 ? in_features : group_size; }
};

// Integers and their scales, without any layout. w[n, k] = (codes[n, k] - zeros[n, g]) * scales[n, g], plus minima[n,
// g] on a grid with minima (whose zeros are 0), where g = k / group_size; the last group may be short. Scales are
// finite and may be negative. Checkpoints that GPTQ made in "act order" have g = group_index[k] instead: their columns
// keep their natural order, only their groups are scattered. Nothing of this project makes such tensors; it reads them
// and passes them on.
struct QuantizedTensor {
  int64_t out_features = 0;
  int64_t in_features = 0;
  int64_t group_size = 0;  // explicit: equals in_features for one group per row
  int bits = 4;
  bool symmetric = true;
  std::vector<uint8_t> codes;         // [out, in]
  std::vector<uint16_t> scales;       // bits of scale_type [out, groups]
  std::vector<uint8_t> zeros;         // [out, groups]
  std::vector<uint16_t> minima = {};  // bits of scale_type [out, groups]; empty: the grid has none
  ScaleType scale_type = ScaleType::kF16;
  std::vector<int32_t> group_index = {};  // [in], each in 0 .. groups - 1; empty: k / group_size

  int64_t groups() const noexcept { return group_size == 0 ? 0 : (in_features + group_size - 1) / group_size; }
  Grid grid() const noexcept { return {bits, symmetric, group_size, !minima.empty(), scale_type}; }
  float scale(size_t group) const noexcept { return decode_scale(scales[group], scale_type); }
  float minimum(size_t group) const noexcept { return minima.empty() ? 0.0f : decode_scale(minima[group], scale_type); }
};

// float32 [out, in] of the formula above (product in float32).
Matrix dequantize(const QuantizedTensor& tensor);
// The same for rows first .. first + count - 1, into `out` [count, in].
void dequantize_rows(const QuantizedTensor& tensor, int64_t first, int64_t count, float* out) noexcept;
// Sizes of the arrays against the shape, codes and zeros within the grid, scales finite; throws FormatError naming
// `name`.
void validate(const QuantizedTensor& tensor, const std::string& name);

// Scales of the channels of one input: W <- W diag(scale), the producer's output channel k divided by scale[k].
struct InputScale {
  LinearInput input = LinearInput::kQkv;
  std::string fold;          // name of the fold, e.g. "input_layernorm -> q_proj,k_proj,v_proj"; empty: none
  std::vector<float> scale;  // [K], > 0; empty: all ones
  double ratio = 0;          // exponent r of the best grid point
  double loss_before = 0;    // loss with scale 1
  double loss_after = 0;     // loss with the chosen scale
};
struct ScalePlan {
  std::vector<InputScale> inputs;
};

}  // namespace metal_marlin

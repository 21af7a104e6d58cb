// The methods of `metal-marlin quantize` for one weight: from arrays to arrays, through the same stages.
//
// Shapes: weights are [out_features, in_features], as checkpoints and torch have them; N = out_features, K =
// in_features, G = groups. With codes c in 0 .. 2^bits - 1 and group g = k / group_size:
//
//   W'[n, k] = (c[n, k] - zeros[n, g]) * scales[n, g] / input_scale[k]          float32, in this order
#pragma once

#include <metal_marlin/array.h>
#include <metal_marlin/export.h>
#include <metal_marlin/options.h>
#include <metal_marlin/progress.h>

#include <cstdint>
#include <optional>
#include <string>

namespace metal_marlin {

// Names and defaults are those of QuantizeOptions.
struct MatrixOptions {
  Method method = Method::kAwq;
  Scheme scheme = Scheme::kAsymmetric;
  int bits = 4;              // 3, 4 or 8
  int64_t group_size = 128;  // along in_features; -1: one group per row. The last group may be short
  // Of kGptq and kAwq: the share of each diagonal entry of the Gram matrix that is added to it, 0 to 1. kAwq takes it
  // as the least that it tries. Empty: 0.01.
  std::optional<double> damping;
  bool act_order = true;  // kGptq, kAwq: columns in order of decreasing diagonal
};

struct METAL_MARLIN_API QuantizedMatrix {
  Array codes;   // uint8 [N, K]
  Array scales;  // float16 [N, G]; may be negative
  Array zeros;   // uint8 [N, G]: the code of weight 0, 2^(bits - 1) everywhere in a symmetric scheme
  // float32 [K], > 0: what a model's module before it would take up. Channel k of the weight was multiplied by it
  // before rounding. All 1 with kGptq and kRtn.
  Array input_scale;

  int64_t out_features = 0;
  int64_t in_features = 0;
  int64_t group_size = 0;  // explicit
  int bits = 4;
  Method method = Method::kAwq;
  Scheme scheme = Scheme::kAsymmetric;

  double weight_error = 0;             // |W' - W| / |W| (Frobenius)
  std::optional<double> output_error;  // |X (W' - W)^T| / |X W^T| on the inputs; empty: none were given
  double exponent = 0;                 // of the scale search
  double damping = 0;                  // with which errors were fed back; 0: they were not
  std::string rounding;                // "nearest", "feedback" (GPTQ's), or "refined"

  // Returns W' [N, K] by the formula above in float16, bfloat16, float32 or float64, rounded once. Throws NumericError
  // for a value that the type cannot hold.
  Array dequantize(ElementType type = ElementType::kF32) const;
};

// Quantizes `weight` [N, K] for `inputs` [B, T, K] or [tokens, K]; kRtn needs none. Both are of float16, bfloat16,
// float32 or float64 and of any strides.
//
// kAwq is the recipe of `quantize --method awq`: scales of the input channels by the loss after error feedback, ranges
// of groups by the Gram matrix (asymmetric: by its diagonal), rounding with error feedback, refinement of codes and
// scales. The last eighth of the sequences (of the tokens, where there is one sequence) judges how much of that is
// applied. The first token of each of several sequences counts nine times in the Gram matrix, because all later
// positions attend to it: give [tokens, K] where the rows are no sequences of a model.
//
// ArgumentError names the argument, what was expected and what was found. NumericError: NaN or Inf, or scales that
// float16 cannot hold. Thread-safe; the result does not depend on the number of threads. Memory: about twice the
// weight, and K^2 numbers five times, in float32. The observer may stop the work between its stages.
METAL_MARLIN_API QuantizedMatrix quantize_matrix(const ArrayView& weight, const std::optional<ArrayView>& inputs,
                                                 const MatrixOptions& options = {}, const Observer& observer = {});

// The formula above for arrays that were kept. `input_scale` may be left out: all 1.
METAL_MARLIN_API Array dequantize_matrix(const ArrayView& codes, const ArrayView& scales, const ArrayView& zeros,
                                         const std::optional<ArrayView>& input_scale, int64_t group_size,
                                         ElementType type = ElementType::kF32);

}  // namespace metal_marlin

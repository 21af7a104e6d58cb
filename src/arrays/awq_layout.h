// What the array functions of AWQ and GPTQ share.
#pragma once

#include <metal_marlin/awq.h>

#include <cstdint>
#include <span>

#include "core/values.h"

namespace metal_marlin {

// in_features rounded up to whole groups and whole words of eight.
int64_t padded_in_features(int64_t in_features, int64_t group_size);

struct NativeArrays {
  Array words;   // uint32 [padded K / 8, N]
  Array scales;  // float16 [G, N]
  Array zeros;   // float16 [G, N], integers -8..7
};
// Packs as pack/native.h does. Rows that pad in_features stand for weights of 0. `tensor` is moved from.
NativeArrays native_arrays(QuantizedTensor tensor);

// "sym" or "asym"; ArgumentError for another scheme.
Grid grid_of(const std::string& scheme, int64_t group_size);

// weight[n, k] *= scale[k].
void multiply_columns(Matrix& weight, std::span<const float> scale);
struct ErrorSums {
  double error = 0;  // sum of squares, in units of the unscaled weights
  double weight = 0;
};
// `weight` is scaled by `scale`, as is what `quantized` represents.
ErrorSums unscaled_error(const Matrix& weight, const QuantizedTensor& quantized, std::span<const float> scale);

// Reports the stage to the observer, if there is one. Throws Interrupted when it asks to stop.
void report_stage(const Observer& observer, const char* stage, int64_t done, int64_t total);

}  // namespace metal_marlin

// What the array functions of AWQ and GPTQ share.
#pragma once

#include <metal_marlin/awq.h>

#include <cstdint>
#include <string>

#include "core/values.h"
#include "quantize/errors.h"

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

// Mean, max and rms of the argument "activations", and with `gram` the Gram matrix.
ActivationStats collect_stats(const ArrayView& activations, bool gram, const Observer& observer = {});
// Throws NumericError naming `name` when the scales of some groups exceed float16.
void require_held_scales(int64_t clamped_groups, const char* name);
// What describes the arrays that native_arrays() makes of `tensor`, and its errors.
AWQMeta meta_of(const QuantizedTensor& tensor, const std::string& scheme, const LinearErrors& errors);

// Reports the stage to the observer, if there is one. Throws Interrupted when it asks to stop.
void report_stage(const Observer& observer, const char* stage, int64_t done, int64_t total);

}  // namespace metal_marlin

// Weights in floats of 8 bits (E4M3) with scales beside them: the method "fp8" of transformers and of DeepSeek, and
// float-quantized of compressed-tensors. They have no grid of integers, so they are read as floats.
//
//   P.weight            F8_E4M3 [out, in]: a sign, four bits of exponent (bias 7), three of mantissa; no infinity, 0x7f
//                       and 0xff are no numbers
//   P.weight_scale_inv  F32, F16 or BF16: one for the weight, [out], [out, groups] with groups along a row, or one for
//   or P.weight_scale   each block of the config's size, of which the last of a row and of a column may be short
//
//   w = weight * scale in float32 (also where the name says "inv")
#pragma once

#include <cstdint>
#include <string>

#include "checkpoint/stored_entry.h"
#include "layouts/packed_config.h"

namespace metal_marlin {

// Sets the scale of `e`, the tensor `name`, where it is a weight in floats of 8 bits; `raw` as in stored_entry.h.
// FormatError naming file and tensor where it has none, or one whose type or shape is none of these.
void find_float_scale(const std::string& name, const StoredEntries& raw, const PackedConfig& config, StoredEntry& e);
// Whether the tensor is such a scale, or one of activations or of the cache in a checkpoint of such weights, which is
// of no use here.
bool is_float_scale(const std::string& name, const StoredEntries& raw, const PackedConfig& config);

// Rows first .. first + rows - 1 of such a weight, into `out` [rows, in].
void float8_to_f32(const StoredEntry& e, int64_t first, int64_t rows, float* out);

}  // namespace metal_marlin

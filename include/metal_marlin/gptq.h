// GPTQ (arXiv 2210.17323) of one matrix at a time, with the shapes, checks and layout of awq.h; no q_scale.
//
//   W'[k, n] = (c[k, n] - 8 - zeros[g, n]) * scales[g, n]          g = k / group_size
//
// Groups are static: with act_order columns are rounded in the order of their activations, but each stays in the group
// of its index, so that no g_idx is needed.
#pragma once

#include <metal_marlin/array.h>
#include <metal_marlin/awq.h>
#include <metal_marlin/progress.h>

#include <cstdint>
#include <string>

namespace metal_marlin {

struct GPTQPacked {
  Array Q;       // uint32 [padded K / 8, N], as AWQResult::Q
  Array scales;  // float16 [G, N]
  Array zeros;   // float16 [G, N], integers -8..7
  double quantization_error = 0;  // sum of squared errors of the weights (GPTQ minimises meta.output_error instead)
  AWQMeta meta;  // quant_type "gptq_int4"
};

// damping: share of each diagonal entry of X^T X that is added to it, 0 to 1. Holds the weights, the Gram matrix and its
// factor, 2 to 4 times the weights in all.
GPTQPacked gptq_quantize(const ArrayView& weights, const ArrayView& activations,
                         int64_t group_size = kAwqDefaultGroupSize, double damping = 0.01, bool act_order = true,
                         const std::string& scheme = "sym", const Observer& observer = {});

Array gptq_dequantize(const ArrayView& packed, const ArrayView& scales, const ArrayView& zeros, const AWQMeta& meta,
                      ElementType type = ElementType::kF16);

}  // namespace metal_marlin

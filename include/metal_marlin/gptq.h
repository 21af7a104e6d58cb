// GPTQ (arXiv 2210.17323) of one matrix at a time, with the shapes, checks and layout of awq.h; no q_scale.
//
//   W'[k, n] = (c[k, n] - 8 - zeros[g, n]) * scales[g, n]          g = k / group_size
//
// Groups are static. With act_order columns are rounded in the order of their activations, but each stays in the group
// of its index, so no g_idx is needed.
#pragma once

#include <metal_marlin/array.h>
#include <metal_marlin/awq.h>
#include <metal_marlin/export.h>
#include <metal_marlin/progress.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace metal_marlin {

struct GPTQPacked {
  Array Q;                        // uint32 [padded K / 8, N], as AWQResult::Q
  Array scales;                   // float16 [G, N]
  Array zeros;                    // float16 [G, N], integers -8..7
  double quantization_error = 0;  // sum of squared errors of the weights (GPTQ minimises meta.output_error instead)
  AWQMeta meta;                   // quant_type "gptq_int4"

  Array dequantize(ElementType type = ElementType::kF16) const;  // [K, N], by gptq_dequantize
};

// The method is `--method gptq` of `quantize`. damping, 0 to 1, is the share of each diagonal entry of X^T X that is
// added to it. Memory: the weights, the Gram matrix and its factor, 2 to 4 times the weights in all.
METAL_MARLIN_API GPTQPacked gptq_quantize(const ArrayView& weights, const ArrayView& activations,
                                          int64_t group_size = kAwqDefaultGroupSize, double damping = 0.01,
                                          bool act_order = true, const std::string& scheme = "sym",
                                          const Observer& observer = {});

METAL_MARLIN_API Array gptq_dequantize(const ArrayView& packed, const ArrayView& scales, const ArrayView& zeros,
                                       const AWQMeta& meta, ElementType type = ElementType::kF16);

inline Array GPTQPacked::dequantize(ElementType type) const {
  return gptq_dequantize(Q, scales, zeros, meta, type);
}

// ---- By a Hessian, with weights as a checkpoint stores them
//
// Shapes here: W [N, K] = [out_features, in_features], scales and zeros [G, N], H [K, K]. group_size -1: one group per
// row. The functions return values instead of packed codes, under the names of an earlier implementation in numpy.

// Returns float64 [K, K]: 2 X^T X, divided by the number of tokens when `normalize`. activations is [tokens, K] or [B,
// T, K]. Sums are in float64.
METAL_MARLIN_API Array compute_hessian(const ArrayView& activations, bool normalize = true);

struct GPTQResult {
  Array Q;       // float32 [N, K]: (code - zero) * scale, columns in their own order
  Array scales;  // float32 [G, N], values that float16 holds
  Array zeros;   // float32 [G, N], the codes of weight 0; empty for symmetric grids, where that is 2^(bits - 1)
  // [K] the order in which columns were rounded and in which they form groups: column perm[j] belongs to group j /
  // group_size. Empty without act order: groups of neighbours.
  std::vector<int64_t> perm;
  double quantization_error = 0;  // sum of squared errors of the weights
  double total_error = 0;         // tr((Q - W) H (Q - W)^T), what GPTQ minimises; negative: not known
};

// GPTQ by the Hessian H [K, K] (symmetric, as compute_hessian makes it). bits 2, 3, 4 or 8; damp: share of the mean of
// H's diagonal that is added to it, 0 to 1. Channels that are always zero are rounded plainly.
METAL_MARLIN_API GPTQResult quantize_layer_gptq(const ArrayView& W, const ArrayView& H, int bits = 4,
                                                int64_t group_size = 128, bool sym = true, bool actorder = true,
                                                double damp = 0.01, const Observer& observer = {});
// Plain rounding on the same grid: scales from the largest weight (symmetric, over 2^(bits-1) - 1 steps) or from the
// range of the group.
METAL_MARLIN_API GPTQResult quantize_rtn(const ArrayView& W, int bits = 4, int64_t group_size = 128, bool sym = true);

struct GPTQComparison {
  double rtn_mse = 0;  // mean squared error of the weights
  double gptq_mse = 0;
  double rtn_total_error = 0;  // tr(E H E^T)
  double gptq_total_error = 0;
  double improvement_ratio = 1;  // rtn_total_error / gptq_total_error: of the outputs, which is what GPTQ is for
};
METAL_MARLIN_API GPTQComparison compare_gptq_vs_rtn(const ArrayView& W, const ArrayView& H, int bits = 4,
                                                    int64_t group_size = 128, const Observer& observer = {});

struct PackedGPTQ {
  Array packed;  // uint32 [N, ceil(K / 8)]: bits 4i..4i+3 of word r hold the code of column 8r + i
  Array scales;  // float16 [G, N]
  Array zeros;   // float16 [G, N], integers -8..7: W = (code - 8 - zeros) * scales
};
// The 4-bit codes of a GPTQResult. ArgumentError where Q does not lie on the grid of scales and zeros, as when `perm`
// is not the one that they belong to. zeros: none for symmetric grids; perm: empty or as in GPTQResult.
METAL_MARLIN_API PackedGPTQ pack_gptq_int4(const ArrayView& Q, const ArrayView& scales,
                                           const std::optional<ArrayView>& zeros, int64_t group_size,
                                           const std::vector<int64_t>& perm = {});

// The settings of quantize_layer_gptq, checked once.
class METAL_MARLIN_API GPTQQuantizer {
 public:
  explicit GPTQQuantizer(int bits = 4, int64_t group_size = 128, bool sym = true, bool actorder = true,
                         double damp = 0.01);
  GPTQResult quantize_weight(const ArrayView& W, const ArrayView& H, const Observer& observer = {}) const;

 private:
  int bits_;
  int64_t group_size_;
  bool sym_;
  bool actorder_;
  double damp_;
};

}  // namespace metal_marlin

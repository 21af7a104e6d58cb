#include <fmt/format.h>
#include <metal_marlin/error.h>
#include <metal_marlin/gptq.h>

#include "arrays/array_input.h"
#include "arrays/awq_layout.h"
#include "arrays/hessian.h"
#include "core/border.h"
#include "core/threads.h"
#include "quantize/errors.h"
#include "quantize/group_range.h"
#include "quantize/rounding/gptq.h"

namespace metal_marlin {

GPTQPacked gptq_quantize(const ArrayView& weights, const ArrayView& activations, int64_t group_size, double damping,
                         bool act_order, const std::string& scheme, const Observer& observer) try {
  const ThreadCount thread_count;
  expect_layer(weights, activations);
  expect_group_size(group_size);
  expect_damping(damping, "damping");
  const Grid grid = grid_of(scheme, group_size);
  const Matrix weight = load_transposed(weights, "weights");
  const ActivationStats stats = collect_stats(activations, true, observer);
  constexpr int64_t kStages = 3;
  report_stage(observer, "search ranges", 0, kStages);
  RangeOptions range;
  range.method = RangeChoice::kGram;
  const GroupRanges ranges = group_ranges(weight, grid, range, &stats.gram);
  require_held_scales(ranges.counts.clamped, "weights");
  report_stage(observer, "round", 1, kStages);
  GptqOptions options;
  options.damping = damping;
  options.act_order = act_order;
  QuantizedTensor q = quantize_gptq(weight, make_gptq_factor(stats.gram, options), ranges, grid);
  report_stage(observer, "measure", 2, kStages);
  const LinearErrors errors = linear_errors(weight, q, &stats.gram);
  GPTQPacked result;
  result.quantization_error = errors.squared_error;
  result.meta = meta_of(q, scheme, errors);
  result.meta.quant_type = "gptq_int4";
  result.meta.raised_scales = ranges.counts.raised;
  NativeArrays arrays = native_arrays(std::move(q));
  result.Q = std::move(arrays.words);
  result.scales = std::move(arrays.scales);
  result.zeros = std::move(arrays.zeros);
  return result;
} catch (...) {
  rethrow_as_error("gptq_quantize");
}

Array gptq_dequantize(const ArrayView& packed, const ArrayView& scales, const ArrayView& zeros, const AWQMeta& meta,
                      ElementType type) try {
  const ThreadCount thread_count;
  if (meta.quant_type != "gptq_int4") {
    throw ArgumentError("meta", fmt::format("meta: quant_type: expected \"gptq_int4\", found \"{}\"", meta.quant_type));
  }
  AWQMeta same = meta;
  same.quant_type = "awq_int4";
  return awq_dequantize(packed, scales, zeros, {}, same, type);
} catch (...) {
  rethrow_as_error("gptq_dequantize");
}

}  // namespace metal_marlin

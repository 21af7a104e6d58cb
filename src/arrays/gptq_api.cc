#include <fmt/format.h>
#include <metal_marlin/error.h>
#include <metal_marlin/gptq.h>

#include <cmath>

#include "arrays/array_input.h"
#include "arrays/awq_layout.h"
#include "arrays/hessian.h"
#include "core/border.h"
#include "core/counted.h"
#include "core/threads.h"
#include "quantize/errors.h"
#include "quantize/gptq.h"
#include "quantize/group_range.h"
#include "statistics/statistics.h"

namespace metal_marlin {

GPTQPacked gptq_quantize(const ArrayView& weights, const ArrayView& activations, int64_t group_size, double damping,
                         bool act_order, const std::string& scheme, const Observer& observer) try {
  const ThreadCount thread_count;
  const int64_t k = expect_layer(weights, activations);
  expect_group_size(group_size);
  expect_damping(damping, "damping");
  const Grid grid = grid_of(scheme, group_size);
  const Matrix weight = load_transposed(weights, "weights");
  StatsCollector collector;
  int64_t seen = 0;
  for_each_batch(activations, "activations", [&](const float* rows, int64_t count) {
    report_stage(observer, "statistics", seen, token_count(activations));
    collector.add(LinearInput::kQkv, rows, count, k);
    seen += count;
  });
  const ActivationStats stats = std::move(collector.finish([](LinearInput) { return std::string("activations"); })[0]);
  constexpr int64_t kStages = 3;
  report_stage(observer, "search ranges", 0, kStages);
  RangeOptions range;
  range.method = RangeMethod::kGram;
  const GroupRanges ranges = group_ranges(weight, grid, range, &stats.gram);
  if (ranges.counts.clamped > 0) {
    throw NumericError(fmt::format(
        "weights: expected values whose group scales float16 can hold (at most 65504), found {} that {} it; "
        "divide the weights by a constant",
        counted(ranges.counts.clamped, "group"), form_for(ranges.counts.clamped, "exceeds", "exceed")));
  }
  GPTQPacked result;
  report_stage(observer, "round", 1, kStages);
  QuantizedTensor q;
  {
    GptqOptions options;
    options.damping = damping;
    options.act_order = act_order;
    const GptqFactor factor = make_gptq_factor(stats.gram, options);
    q = quantize_gptq(weight, factor, ranges, grid);
  }
  report_stage(observer, "measure", 2, kStages);
  const LinearErrors errors = linear_errors(weight, q, &stats.gram);
  double size = 0;
  for (const float w : weight.values()) size += static_cast<double>(w) * w;
  result.quantization_error = errors.weight_error * errors.weight_error * size;
  result.meta.quant_type = "gptq_int4";
  result.meta.in_features = k;
  result.meta.out_features = weights.shape[1];
  result.meta.group_size = group_size;
  result.meta.padded_in_features = padded_in_features(k, group_size);
  result.meta.scheme = scheme;
  result.meta.output_error = errors.output_error;
  result.meta.weight_error = errors.weight_error;
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
    throw ArgumentError(fmt::format("meta: quant_type: expected \"gptq_int4\", found \"{}\"", meta.quant_type));
  }
  AWQMeta same = meta;
  same.quant_type = "awq_int4";
  return awq_dequantize(packed, scales, zeros, {}, same, type);
} catch (...) {
  rethrow_as_error("gptq_dequantize");
}

}  // namespace metal_marlin

#include <fmt/format.h>
#include <metal_marlin/awq.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cmath>

#include "arrays/array_input.h"
#include "arrays/awq_layout.h"
#include "core/border.h"
#include "core/half.h"
#include "core/threads.h"
#include "kernels/linear_algebra.h"
#include "quantize/errors.h"
#include "quantize/group_range.h"
#include "quantize/rounding/rtn.h"
#include "scale/salient.h"

namespace metal_marlin {
namespace {

constexpr int64_t kStages = 5;
// Of 25 and 54 candidates these many are tried with the whole block. Measured on 24 linears of SmolLM2: on other text
// the output error was no larger than with all candidates.
constexpr int kSymmetricFinalists = 5;
constexpr int kAsymmetricFinalists = 10;

RangeOptions range_options(const Grid& grid) {
  RangeOptions options;
  options.method = RangeChoice::kGram;
  options.finalists = grid.symmetric ? kSymmetricFinalists : kAsymmetricFinalists;
  return options;
}

ScaleSearchOptions search_options(const std::string& statistic, const Grid& grid) {
  ScaleSearchOptions options;
  options.statistic = parse_activation_method(statistic);
  options.grid = grid;
  // The published search, and with it `quantize`, rounds its candidates with absmax ranges. These functions promise the
  // exponent with the least error of what is stored, so they round as they will afterwards: measured on 24 linears of
  // SmolLM2, exponents chosen with absmax ranges have 0.8 % more error on other text (1.8 % asymmetric).
  options.range = range_options(grid);
  // Of 120 linears of SmolLM2 2 (asymmetric 6) get another exponent than by the whole grid; the error on other text was
  // no larger (geometric mean).
  options.stop_early = true;
  return options;
}

// A power of two that brings the largest group scale near 1. It is exact in q_scale and in the weights.
float centering_factor(const Matrix& weight) {
  float largest = 0;
  for (const float w : weight.values()) largest = std::max(largest, std::fabs(w));
  int exponent = 0;
  std::frexp(largest / static_cast<float>(kAwqMaxInt4), &exponent);
  return std::ldexp(1.0f, std::clamp(-exponent, -14, 15));
}

// Ranges for a weight that has been multiplied by `scale`. These functions promise results for weights whose group
// scales float16 cannot hold (the pipeline reports such groups instead): weight and scale are changed by a power of
// two then. Gram matrix and candidates are as good for the changed weight, because losses scale alike.
GroupRanges find_ranges(Matrix& weight, const Matrix& gram, const Grid& grid, std::vector<float>& scale) {
  const RangeOptions options = range_options(grid);
  GroupRanges ranges = group_ranges(weight, grid, options, &gram);
  if (ranges.counts.clamped == 0 && ranges.counts.raised == 0) return ranges;
  const float factor = centering_factor(weight);
  const auto fits = [&](float s) { return s * factor >= kLeastScale && s * factor <= kLargestScale; };
  if (factor != 1.0f && std::all_of(scale.begin(), scale.end(), fits)) {
    multiply_columns(weight, std::vector<float>(scale.size(), factor));
    for (float& s : scale) s *= factor;
    ranges = group_ranges(weight, grid, options, &gram);
  }
  require_held_scales(ranges.counts.clamped, "weights");
  return ranges;
}

}  // namespace

AWQResult awq_quantize(const ArrayView& weights, const ArrayView& activations, int64_t group_size, double salient_ratio,
                       const std::string& activation_method, const std::string& scheme, const Observer& observer) try {
  const ThreadCount thread_count;
  expect_layer(weights, activations);
  expect_group_size(group_size);
  if (!(salient_ratio >= 0 && salient_ratio <= 1)) {
    throw ArgumentError("salient_ratio", fmt::format("salient_ratio: expected 0 to 1, found {}", salient_ratio));
  }
  const Grid grid = grid_of(scheme, group_size);
  const ScaleSearchOptions options = search_options(activation_method, grid);
  Matrix weight = load_transposed(weights, "weights");
  ActivationStats stats = collect_stats(activations, true, observer);
  AWQResult result;
  result.salient_ratio = salient_ratio;

  report_stage(observer, "search scales", 1, kStages);
  const Matrix* const stack[] = {&weight};
  SalientScaling found = compute_salient_scaling(LinearInput::kQkv, stack, stats, salient_ratio, options);
  std::vector<float> scale = std::move(found.scale.scale);
  // The weights are divided by the scale as float16 stores it.
  for (float& s : scale) s = round_to_f16(std::min(s, kLargestScale));
  multiply_columns(weight, scale);
  require_finite(weight, "weights times q_scale");
  scale_gram(stats.gram, scale);

  report_stage(observer, "search ranges", 2, kStages);
  const GroupRanges ranges = find_ranges(weight, stats.gram, grid, scale);
  report_stage(observer, "round", 3, kStages);
  QuantizedTensor q = quantize_rtn(weight, ranges, grid);
  report_stage(observer, "measure", 4, kStages);
  const LinearErrors errors = linear_errors(weight, q, &stats.gram, scale);

  result.quantization_error = errors.squared_error;
  result.meta = meta_of(q, scheme, errors);
  result.meta.exponent = found.scale.ratio;
  result.meta.salient_weights =
      static_cast<int64_t>(std::floor(salient_ratio * static_cast<double>(weight.size()) + 0.5));
  result.meta.salient_channels = static_cast<int64_t>(found.channels.size());
  result.meta.raised_scales = ranges.counts.raised;
  NativeArrays arrays = native_arrays(std::move(q));
  result.Q = std::move(arrays.words);
  result.scales = std::move(arrays.scales);
  result.zeros = std::move(arrays.zeros);
  result.q_scale = Array(ElementType::kF16, {static_cast<int64_t>(scale.size())});
  for (size_t k = 0; k < scale.size(); ++k) result.q_scale.as<uint16_t>()[k] = f32_to_f16(scale[k]);
  return result;
} catch (...) {
  rethrow_as_error("awq_quantize");
}

}  // namespace metal_marlin

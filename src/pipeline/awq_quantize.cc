#include <fmt/format.h>
#include <metal_marlin/awq.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cmath>

#include "calibrate/statistics.h"
#include "core/half.h"
#include "core/threads.h"
#include "kernels/linear_algebra.h"
#include "pipeline/array_input.h"
#include "pipeline/awq_layout.h"
#include "quantize/errors.h"
#include "quantize/group_range.h"
#include "quantize/rtn.h"
#include "scale/salient.h"

namespace metal_marlin {
namespace {

constexpr int64_t kRowTile = 64;
constexpr int64_t kStages = 5;

void multiply_columns(Matrix& weight, std::span<const float> scale) {
  parallel_for((weight.rows() + kRowTile - 1) / kRowTile, [&](int64_t tile) {
    for (int64_t r = tile * kRowTile; r < std::min((tile + 1) * kRowTile, weight.rows()); ++r) {
      const std::span<float> row = weight.row(r);
      for (size_t c = 0; c < row.size(); ++c) row[c] *= scale[c];
    }
  });
}

struct Sums {
  double error = 0;   // sum of squares, in units of the unscaled weights
  double weight = 0;
};
// weight: scaled by `scale`, as `quantized` represents it.
Sums unscaled_error(const Matrix& weight, const QuantizedTensor& quantized, std::span<const float> scale) {
  const int64_t tiles = (weight.rows() + kRowTile - 1) / kRowTile;
  std::vector<Sums> parts(static_cast<size_t>(tiles));
  parallel_for(tiles, [&](int64_t tile) {
    const int64_t first = tile * kRowTile;
    const int64_t rows = std::min(kRowTile, weight.rows() - first);
    std::vector<float> values(static_cast<size_t>(rows * weight.cols()));
    dequantize_rows(quantized, first, rows, values.data());
    Sums& part = parts[static_cast<size_t>(tile)];
    for (int64_t r = 0; r < rows; ++r) {
      const float* w = weight.row(first + r).data();
      const float* v = values.data() + r * weight.cols();
      double error = 0;
      double size = 0;
      for (size_t c = 0; c < scale.size(); ++c) {
        const float e = (v[c] - w[c]) / scale[c];
        const float u = w[c] / scale[c];
        error += static_cast<double>(e) * e;
        size += static_cast<double>(u) * u;
      }
      part.error += error;
      part.weight += size;
    }
  });
  Sums sums;
  for (const Sums& part : parts) {
    sums.error += part.error;
    sums.weight += part.weight;
  }
  return sums;
}

// The largest group scale that absmax ranges would ask for.
float largest_scale(const Matrix& weight) {
  float largest = 0;
  for (const float w : weight.values()) largest = std::max(largest, std::fabs(w));
  return largest / static_cast<float>(kAwqMaxInt4);
}

// Powers of two are exact in q_scale and in the weights: they move group scales into the middle of float16's range.
float centering_factor(float largest) {
  int exponent = 0;
  std::frexp(largest, &exponent);
  return std::ldexp(1.0f, std::clamp(-exponent, -14, 15));
}

class Quantizer {
 public:
  Quantizer(Matrix weight, ActivationStats stats, const Grid& grid) : weight_(std::move(weight)), stats_(std::move(stats)), grid_(grid) {}

  AWQResult run(double salient_ratio, const std::string& method, const Observer& observer) {
    AWQResult result;
    result.salient_ratio = salient_ratio;
    report_stage(observer, "search scales", 1, kStages);
    find_scale(salient_ratio, method, result.meta);
    report_stage(observer, "search ranges", 2, kStages);
    GroupRanges ranges = find_ranges();
    report_stage(observer, "round", 3, kStages);
    QuantizedTensor q = quantize_rtn(weight_, ranges, grid_);
    report_stage(observer, "measure", 4, kStages);
    result.meta.raised_scales = ranges.counts.raised;
    result.meta.output_error = linear_errors(weight_, q, &stats_.gram).output_error;
    stats_.gram = Matrix();
    const Sums sums = unscaled_error(weight_, q, scale_);
    result.quantization_error = sums.error;
    result.meta.weight_error = sums.weight > 0 ? std::sqrt(sums.error / sums.weight) : 0;
    result.meta.in_features = weight_.cols();
    result.meta.out_features = weight_.rows();
    result.meta.group_size = grid_.group_size;
    result.meta.padded_in_features = padded_in_features(weight_.cols(), grid_.group_size);
    result.meta.scheme = grid_.symmetric ? "sym" : "asym";
    weight_ = Matrix();
    NativeArrays arrays = native_arrays(std::move(q));
    result.Q = std::move(arrays.words);
    result.scales = std::move(arrays.scales);
    result.zeros = std::move(arrays.zeros);
    result.q_scale = Array(ElementType::kF16, {static_cast<int64_t>(scale_.size())});
    for (size_t k = 0; k < scale_.size(); ++k) result.q_scale.as<uint16_t>()[k] = f32_to_f16(scale_[k]);
    return result;
  }

 private:
  void find_scale(double salient_ratio, const std::string& method, AWQMeta& meta) {
    ScaleSearchOptions options;
    options.statistic = parse_activation_method(method);
    options.grid = grid_;
    options.range.method = RangeMethod::kGram;  // the loss of what is stored in the end
    const Matrix* const stack[] = {&weight_};
    const SalientScaling found = compute_salient_scaling(Tap::kQkv, stack, stats_, salient_ratio, options);
    meta.exponent = found.scale.ratio;
    meta.salient_weights = static_cast<int64_t>(std::floor(salient_ratio * static_cast<double>(weight_.size()) + 0.5));
    meta.salient_channels = static_cast<int64_t>(found.channels.size());
    scale_ = found.scale.scale;
    // What is stored is what is divided by.
    for (float& s : scale_) s = round_to_f16(std::min(s, kLargestScale));
    multiply_columns(weight_, scale_);
    require_finite(weight_, "weights times q_scale");
    scale_gram(stats_.gram, scale_);
  }

  GroupRanges find_ranges() {
    RangeOptions options;
    options.method = RangeMethod::kGram;
    GroupRanges ranges = group_ranges(weight_, grid_, options, &stats_.gram);
    if (ranges.counts.clamped == 0 && ranges.counts.raised == 0) return ranges;
    const float factor = centering_factor(largest_scale(weight_));
    std::vector<float> moved = scale_;
    bool fits = factor != 1.0f;
    for (float& s : moved) {
      s *= factor;
      fits = fits && s >= kLeastScale && s <= kLargestScale;
    }
    if (fits) {
      const std::vector<float> step(scale_.size(), factor);
      multiply_columns(weight_, step);
      scale_gram(stats_.gram, step);
      scale_ = std::move(moved);
      ranges = group_ranges(weight_, grid_, options, &stats_.gram);
    }
    if (ranges.counts.clamped > 0) {
      throw NumericError(fmt::format(
          "weights: expected values whose group scales float16 can hold (at most 65504), found {} groups that exceed it; the largest "
          "scale is {:.3g}; divide the weights by a constant",
          ranges.counts.clamped, largest_scale(weight_)));
    }
    return ranges;
  }

  Matrix weight_;  // [N, K], scaled by scale_ once that is found
  ActivationStats stats_;
  Grid grid_;
  std::vector<float> scale_;  // [K], as float16 holds it
};

}  // namespace

AWQResult awq_quantize(const ArrayView& weights, const ArrayView& activations, int64_t group_size, double salient_ratio,
                       const std::string& activation_method, const std::string& scheme, const Observer& observer) {
  expect_float(weights, "weights");
  expect_shape(weights, "weights", {-1, -1}, "[K, N]");
  const int64_t k = weights.shape[0];
  if (const int64_t width = expect_activations(activations, "activations"); width != k) {
    throw ArgumentError(fmt::format("activations: expected in_features {} as in weights [K, N] = [{}, {}], found {}", k, k,
                                    weights.shape[1], width));
  }
  expect_group_size(group_size);
  if (!(salient_ratio >= 0 && salient_ratio <= 1)) {
    throw ArgumentError(fmt::format("salient_ratio: expected 0 to 1, found {}", salient_ratio));
  }
  parse_activation_method(activation_method);
  const Grid grid = grid_of(scheme, group_size);
  Matrix weight = load_transposed(weights, "weights");
  StatsCollector collector;
  const int64_t tokens = token_count(activations);
  int64_t seen = 0;
  for_each_batch(activations, "activations", [&](const float* rows, int64_t count) {
    report_stage(observer, "statistics", seen, tokens);
    collector.add(Tap::kQkv, rows, count, k);
    seen += count;
  });
  return Quantizer(std::move(weight), std::move(collector.finish()[0]), grid).run(salient_ratio, activation_method, observer);
}

}  // namespace metal_marlin

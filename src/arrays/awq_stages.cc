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
#include "quantize/candidates.h"
#include "quantize/errors.h"
#include "quantize/rounding/rtn.h"
#include "scale/salient.h"

namespace metal_marlin {
namespace {

std::vector<float> load_statistic(const ArrayView& array, const char* name, int64_t in_features) {
  expect_float(array, name);
  expect_shape(array, name, {in_features}, "[K]");
  std::vector<float> statistic = load_vector(array, name);
  for (size_t k = 0; k < statistic.size(); ++k) {
    if (statistic[k] < 0)
      throw NumericError(fmt::format("{}: expected values >= 0, found {} at [{}]", name, statistic[k], k));
  }
  return statistic;
}

// Infers statistics from a mask. A weight is salient when stat_k |w| exceeds a threshold. So the statistic of a channel
// is inverse to the least |w| that is salient; where none is, it is at most inverse to the channel's largest |w|.
// weight and mask are [N, K].
std::vector<float> infer_statistic(const Matrix& weight, const std::vector<uint8_t>& mask) {
  const auto k = static_cast<size_t>(weight.cols());
  std::vector<float> largest(k, 0.0f);
  std::vector<float> least_salient(k, 0.0f);
  for (int64_t n = 0; n < weight.rows(); ++n) {
    const std::span<const float> row = weight.row(n);
    for (size_t c = 0; c < k; ++c) {
      const float w = std::fabs(row[c]);
      largest[c] = std::max(largest[c], w);
      if (mask[static_cast<size_t>(n) * k + c] != 0 && w > 0) {
        least_salient[c] = least_salient[c] > 0 ? std::min(least_salient[c], w) : w;
      }
    }
  }
  const float all = *std::max_element(largest.begin(), largest.end());
  std::vector<float> statistic(k, 1.0f);
  for (size_t c = 0; c < k; ++c) {
    const float w = least_salient[c] > 0 ? least_salient[c] : largest[c];
    if (w > 0) statistic[c] = all / w;
  }
  return statistic;
}

// The loss of compute_salient_scaling: its callers give the scales of the unscaled weight's groups, so a candidate is
// rounded with these times the growth of the group's largest weight, where the pipeline makes ranges anew. The output
// error of evenly spaced output channels.
class GivenScalesLoss {
 public:
  // scales: [G, N] as [N, G].
  GivenScalesLoss(const Matrix& weight, const Matrix& scales, const Matrix& gram, const Grid& grid)
      : grid_(grid), gram_(gram) {
    const Matrix* const weights[] = {&weight};
    const Matrix* const their_scales[] = {&scales};
    sample_ = sample_rows(weights, ScaleSearchOptions{}.rows);
    scales_ = sample_rows(their_scales, ScaleSearchOptions{}.rows);
    extents_ = group_extents(sample_, grid.group_size);
  }

  double operator()(std::span<const float> scale) const {
    Matrix scaled = sample_.clone();
    multiply_columns(scaled, scale);
    const std::vector<Extent> grown = group_extents(scaled, grid_.group_size);
    GroupRanges ranges{scaled.rows(), scaled.cols(), grid_.group_size, {}, {}, {}};
    for (size_t i = 0; i < grown.size(); ++i) {
      const float before = extents_[i].magnitude();
      const float wanted = before > 0 ? scales_.values()[i] * (grown[i].magnitude() / before) : kLeastScale;
      ranges.scales.push_back(f32_to_f16(std::clamp(wanted, kLeastScale, kLargestScale)));
      ranges.zeros.push_back(static_cast<uint8_t>(grid_.levels() / 2));
    }
    Matrix gram = gram_.clone();
    scale_gram(gram, scale);
    return linear_errors(scaled, quantize_rtn(scaled, ranges, grid_), &gram).output_error;
  }

 private:
  Grid grid_;
  const Matrix& gram_;
  Matrix sample_;
  Matrix scales_;
  std::vector<Extent> extents_;
};

}  // namespace

Array compute_activation_stats(const ArrayView& activations, const std::string& method) try {
  const ThreadCount thread_count;
  const Statistic statistic = parse_activation_method(method);
  const int64_t width = expect_activations(activations, "activations");
  const ActivationStats stats = collect_stats(activations, false);
  return copy_array(ElementType::kF32, {width}, activation_statistic(stats, statistic).data());
} catch (...) {
  rethrow_as_error("compute_activation_stats");
}

SalientMask find_salient_weights(const ArrayView& weights, const ArrayView& activation_stats,
                                 double salient_ratio) try {
  const ThreadCount thread_count;
  expect_float(weights, "weights");
  expect_shape(weights, "weights", {-1, -1}, "[K, N]");
  const std::vector<float> statistic = load_statistic(activation_stats, "activation_stats", weights.shape[0]);
  const SalientWeights found =
      find_salient_weights_transposed(load_matrix(weights, "weights"), statistic, salient_ratio);
  return {copy_array(ElementType::kBool, weights.shape, found.mask.data()),
          copy_array(ElementType::kF32, {weights.shape[0]}, found.importance.data())};
} catch (...) {
  rethrow_as_error("find_salient_weights");
}

Array compute_salient_scaling(const ArrayView& weights, const ArrayView& salient_mask, const ArrayView& scales,
                              int64_t group_size, const std::optional<ArrayView>& activation_stats,
                              const std::optional<ArrayView>& gram) try {
  const ThreadCount thread_count;
  expect_float(weights, "weights");
  expect_shape(weights, "weights", {-1, -1}, "[K, N]");
  expect_group_size(group_size);
  const int64_t k = weights.shape[0];
  const int64_t n = weights.shape[1];
  expect_type(salient_mask, "salient_mask", ElementType::kBool);
  expect_shape(salient_mask, "salient_mask", {k, n}, "[K, N]");
  expect_float(scales, "scales");
  expect_shape(scales, "scales", {(k + group_size - 1) / group_size, n}, "[G, N]");
  const Matrix weight = load_transposed(weights, "weights");
  const Matrix group_scales = load_transposed(scales, "scales");
  for (const float s : group_scales.values()) {
    if (s < 0) throw NumericError(fmt::format("scales: expected values >= 0, found {}", s));
  }
  const std::vector<uint8_t> mask = load_bytes_transposed(salient_mask);

  ActivationStats stats;
  stats.in_features = k;
  stats.tokens = 1;
  stats.rms =
      activation_stats ? load_statistic(*activation_stats, "activation_stats", k) : infer_statistic(weight, mask);
  if (gram) {
    expect_float(*gram, "gram");
    expect_shape(*gram, "gram", {k, k}, "[K, K]");
    stats.gram = load_matrix(*gram, "gram");
  } else {
    stats.gram = Matrix(k, k);
    for (int64_t c = 0; c < k; ++c) {
      const float s = stats.rms[static_cast<size_t>(c)];
      stats.gram(c, c) = s * s;
    }
  }
  ScaleSearchOptions options;
  options.statistic = Statistic::kRms;
  options.grid = {kAwqQuantBits, true, group_size};
  const GivenScalesLoss loss(weight, group_scales, stats.gram, options.grid);
  options.loss = std::cref(loss);
  const Matrix* const stack[] = {&weight};
  const InputScale found = scale_salient_channels(LinearInput::kQkv, stack, stats, salient_channels(mask, k), options);
  return copy_array(ElementType::kF32, {k}, found.scale.data());
} catch (...) {
  rethrow_as_error("compute_salient_scaling");
}

}  // namespace metal_marlin

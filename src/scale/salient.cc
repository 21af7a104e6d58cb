#include "scale/salient.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "quantize/lanes.h"

namespace metal_marlin {
namespace {

constexpr float kLeastStatistic = 1e-4f;  // as in search_scale

float median(std::vector<float> values) {
  const size_t middle = values.size() / 2;
  std::nth_element(values.begin(), values.begin() + static_cast<int64_t>(middle), values.end());
  const float upper = values[middle];
  if (values.size() % 2 == 1) return upper;
  const float lower = *std::max_element(values.begin(), values.begin() + static_cast<int64_t>(middle));
  return (lower + upper) / 2;
}

// Says to which index of a stored weight the statistic belongs.
enum class StatisticOf : uint8_t { kColumns, kRows };

// The scores of the stack in order. Each pass computes them again: there are as many as weights, so keeping them would
// double the memory.
class Scores {
 public:
  Scores(std::span<const Matrix* const> weights, std::span<const float> importance, StatisticOf of)
      : weights_(weights), importance_(importance), of_(of) {
    float largest = 0;
    for (const Matrix* weight : weights) {
      float low = 0;
      float high = 0;
      min_max(weight->data(), weight->size(), &low, &high);
      largest = std::max({largest, -low, high});
    }
    divisor_ = largest > 0 ? largest : 1.0f;
  }

  // Calls fn(index, bits of the score). Scores are >= 0, so their bits have the same order as they.
  template <typename Fn>
  void for_each(const Fn& fn) const {
    size_t index = 0;
    for (const Matrix* weight : weights_) {
      for (int64_t r = 0; r < weight->rows(); ++r) {
        const std::span<const float> row = weight->row(r);
        if (of_ == StatisticOf::kRows) {
          const float importance = importance_[static_cast<size_t>(r)];
          for (const float w : row) fn(index++, std::bit_cast<uint32_t>(importance * (std::fabs(w) / divisor_)));
          continue;
        }
        for (size_t k = 0; k < row.size(); ++k) {
          fn(index++, std::bit_cast<uint32_t>(importance_[k] * (std::fabs(row[k]) / divisor_)));
        }
      }
    }
  }

 private:
  std::span<const Matrix* const> weights_;
  std::span<const float> importance_;
  StatisticOf of_;
  float divisor_ = 1;
};

// Returns the bits of the count-th largest score, and how many of the scores equal to it are among the count largest.
// count >= 1.
struct Threshold {
  uint32_t bits = 0;
  int64_t equal = 0;
};
Threshold find_threshold(const Scores& scores, int64_t count) {
  constexpr int kDigit = 16;
  Threshold threshold{0, count};
  for (const int shift : {kDigit, 0}) {
    std::vector<int64_t> histogram(size_t{1} << kDigit, 0);
    scores.for_each([&](size_t, uint32_t bits) {
      const bool same_prefix = shift == kDigit || bits >> kDigit == threshold.bits >> kDigit;
      if (same_prefix) ++histogram[bits >> shift & 0xffffu];
    });
    uint32_t digit = 0xffff;
    while (histogram[digit] < threshold.equal) threshold.equal -= histogram[digit--];
    threshold.bits |= digit << shift;
  }
  return threshold;
}

SalientWeights find_salient(std::span<const Matrix* const> weights, std::span<const float> statistic,
                            double salient_ratio, StatisticOf of) {
  if (!(salient_ratio >= 0 && salient_ratio <= 1)) {
    throw ArgumentError("salient_ratio", fmt::format("salient_ratio: expected 0 to 1, found {}", salient_ratio));
  }
  if (weights.empty()) throw ArgumentError("weights", "weights: expected at least one linear");
  int64_t total = 0;
  for (const Matrix* weight : weights) {
    const int64_t inputs = of == StatisticOf::kRows ? weight->rows() : weight->cols();
    if (weight->empty() || inputs != static_cast<int64_t>(statistic.size())) {
      throw ArgumentError("weights",
                          fmt::format("weights: expected {} inputs as there are activation statistics, found [{}, {}]",
                                      statistic.size(), weight->rows(), weight->cols()));
    }
    require_finite(*weight, "weights");
    total += weight->size();
  }
  float largest = 0;
  for (size_t k = 0; k < statistic.size(); ++k) {
    if (!(statistic[k] >= 0) || !std::isfinite(statistic[k])) {
      throw NumericError(
          fmt::format("activation statistics: expected finite values >= 0, found {} for channel {}", statistic[k], k));
    }
    largest = std::max(largest, statistic[k]);
  }
  SalientWeights result;
  result.importance.resize(statistic.size());
  for (size_t k = 0; k < statistic.size(); ++k) result.importance[k] = largest > 0 ? statistic[k] / largest : 0.0f;
  result.mask.assign(static_cast<size_t>(total), 0);
  result.count = static_cast<int64_t>(std::floor(salient_ratio * static_cast<double>(total) + 0.5));
  if (result.count == 0) return result;
  const Scores scores(weights, result.importance, of);
  Threshold threshold = find_threshold(scores, result.count);
  scores.for_each([&](size_t index, uint32_t bits) {
    const bool equal = bits == threshold.bits && threshold.equal > 0;
    threshold.equal -= equal ? 1 : 0;
    result.mask[index] = bits > threshold.bits || equal ? 1 : 0;
  });
  return result;
}

}  // namespace

SalientWeights find_salient_weights(std::span<const Matrix* const> weights, std::span<const float> statistic,
                                    double salient_ratio) {
  return find_salient(weights, statistic, salient_ratio, StatisticOf::kColumns);
}

SalientWeights find_salient_weights_transposed(const Matrix& weight, std::span<const float> statistic,
                                               double salient_ratio) {
  const Matrix* const stack[] = {&weight};
  return find_salient(stack, statistic, salient_ratio, StatisticOf::kRows);
}

std::vector<int32_t> salient_channels(std::span<const uint8_t> mask, int64_t in_features) {
  const auto k = static_cast<size_t>(in_features);
  const size_t rows = mask.size() / k;
  std::vector<int64_t> counts(k, 0);
  for (size_t r = 0; r < rows; ++r) {
    for (size_t c = 0; c < k; ++c) counts[c] += mask[r * k + c];
  }
  std::vector<int32_t> channels;
  for (size_t c = 0; c < k; ++c) {
    if (counts[c] > 0 && static_cast<double>(counts[c]) >= kSalientShare * static_cast<double>(rows)) {
      channels.push_back(static_cast<int32_t>(c));
    }
  }
  return channels;
}

InputScale scale_salient_channels(LinearInput input, std::span<const Matrix* const> weights,
                                  const ActivationStats& stats, std::span<const int32_t> channels,
                                  const ScaleSearchOptions& options) {
  const std::span<const float> statistic = activation_statistic(stats, options.statistic);
  std::vector<float> floored(statistic.begin(), statistic.end());
  for (float& value : floored) value = std::max(value, kLeastStatistic);
  const float middle = median(floored);
  return search_ratios(input, weights, stats, options, [&](double ratio) {
    std::vector<float> scale(floored.size(), 1.0f);
    for (const int32_t channel : channels) {
      const auto c = static_cast<size_t>(channel);
      scale[c] = std::max(static_cast<float>(std::pow(floored[c] / middle, ratio)), 1.0f);
    }
    pool_heads(scale, options.heads);
    return scale;
  });
}

SalientScaling compute_salient_scaling(LinearInput input, std::span<const Matrix* const> weights,
                                       const ActivationStats& stats, double salient_ratio,
                                       const ScaleSearchOptions& options) {
  const std::span<const float> statistic = activation_statistic(stats, options.statistic);
  const SalientWeights salient = find_salient_weights(weights, statistic, salient_ratio);
  SalientScaling result;
  result.channels = salient_channels(salient.mask, static_cast<int64_t>(statistic.size()));
  result.scale = scale_salient_channels(input, weights, stats, result.channels, options);
  return result;
}

}  // namespace metal_marlin

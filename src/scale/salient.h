// awq-salient: only the channels that hold salient weights are scaled.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/tensor.h"
#include "core/values.h"
#include "scale/search.h"

namespace metal_marlin {

struct SalientWeights {
  std::vector<uint8_t> mask;      // [sum of out_i, in] 1: salient
  std::vector<float> importance;  // [in] statistic / max statistic (0 when all are 0)
  int64_t count = 0;              // of ones in mask: exactly round(ratio * size), halves up
};

// The salience of w[n, k] is (stat_k / max stat) * (|w| / max|w|), with the maximum over the stacked weights. The
// round(ratio * size) weights with the largest salience are salient, ties by index in the stack (row first). ratio is
// in [0, 1]. ArgumentError: ratio, shapes; NumericError: NaN, Inf, or a negative statistic.
SalientWeights find_salient_weights(std::span<const Matrix* const> weights, std::span<const float> statistic,
                                    double salient_ratio);

// The same for one weight stored [in, out]. The statistic belongs to its rows; the mask is [in, out], ties by index in
// it.
SalientWeights find_salient_weights_transposed(const Matrix& weight, std::span<const float> statistic,
                                               double salient_ratio);

struct SalientScaling {
  InputScale scale;
  std::vector<int32_t> channels;  // ascending: those that were chosen
};

inline constexpr double kSalientShare = 0.1;  // a channel is chosen when at least this share of its weights is salient

// Returns the channels of a mask [rows, in_features] of which at least kSalientShare is salient, ascending.
std::vector<int32_t> salient_channels(std::span<const uint8_t> mask, int64_t in_features);

// s_k = max((stat_k / median stat)^r, 1) for the chosen channels, 1 for the others, r = i / options.ratios is searched
// as in search_scale. With options.heads the scales are then pooled over heads, so that the fold stays exact.
// Statistics below 1e-4 count as 1e-4. Throws as search_scale and find_salient_weights do.
SalientScaling compute_salient_scaling(LinearInput input, std::span<const Matrix* const> weights,
                                       const ActivationStats& stats, double salient_ratio,
                                       const ScaleSearchOptions& options);
// The same for channels that the caller has chosen.
InputScale scale_salient_channels(LinearInput input, std::span<const Matrix* const> weights,
                                  const ActivationStats& stats, std::span<const int32_t> channels,
                                  const ScaleSearchOptions& options);

}  // namespace metal_marlin

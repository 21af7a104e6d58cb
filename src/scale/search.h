// The search for the scales of input channels that all AWQ methods share. It tries a grid of exponents and takes the
// candidate with the least loss.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "core/values.h"
#include "quantize/group_range.h"

namespace metal_marlin {

// "mean", "max", "rms"; ArgumentError for others.
Statistic parse_activation_method(const std::string& name);
// Returns the statistic that `method` names. Throws ArgumentError when its size is not in_features, NumericError when
// it holds NaN, Inf or a negative value.
std::span<const float> activation_statistic(const ActivationStats& stats, Statistic method);

// With grouped queries the input of o has heads * head_dim channels, but v, into which its scale is folded, has
// kv_heads * head_dim. heads == 0: no pooling.
struct HeadGroups {
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
};

struct ScaleSearchOptions {
  Statistic statistic = Statistic::kMean;
  int ratios = 20;     // exponents i / ratios, i = 0 .. ratios - 1
  int64_t rows = 256;  // the loss is summed over this many evenly spaced rows of the stacked weights; 0: all
  Grid grid;
  RangeOptions range;  // ranges of the rounding inside the loss
  HeadGroups heads;    // for input o
  // Replaces the Gram loss, e.g. by the output error of the whole block. It is called once per candidate, in order,
  // with a scale [in_features]. Empty: the Gram loss.
  std::function<double(std::span<const float> scale)> loss;
  // Tries every second exponent in rising order until three in a row do not lower the loss, then the neighbours of the
  // best. Otherwise all exponents are tried.
  bool stop_early = false;
};

// Finds the scale by the published search (arXiv 2306.00978, section 3.2): x = max(statistic, 1e-4), s = x^(i /
// ratios), pooled over heads, divided by sqrt(max s * min s); the candidate with the least loss wins, the first of
// equals. `weights` are the linears that share the input, each [out_i, in]; they are stacked along out. loss_before is
// the loss of i = 0 (s = 1). fold is left empty. Throws ArgumentError for shapes, options or a missing Gram matrix;
// NumericError for NaN or Inf in weights or statistics, or when no candidate has a finite loss.
InputScale search_scale(LinearInput input, std::span<const Matrix* const> weights, const ActivationStats& stats,
                        const ScaleSearchOptions& options);

// tr(E G E^T) for each candidate scale, E = RTN(W diag(s)) / diag(s) - W on the rows that options.rows selects: row
// floor(i * out / rows) of the stack, i = 0 .. rows - 1. Costs rows * in^2 / 2 multiply-adds per candidate.
std::vector<double> gram_losses(std::span<const Matrix* const> weights, const Matrix& gram,
                                std::span<const std::vector<float>> scales, const ScaleSearchOptions& options);

// Returns a copy of evenly spaced rows of the stack: row floor(i * out / wanted), i = 0 .. wanted - 1. All rows when
// wanted is 0 or exceeds their number.
Matrix sample_rows(std::span<const Matrix* const> weights, int64_t wanted);

// Returns the diagonal blocks of G / (s s^T), one per group of `group_size`. The search of ranges reads nothing else.
// The memory of the rest is never touched.
Matrix scaled_blocks(const Matrix& gram, const std::vector<float>& scale, int64_t group_size);
// Returns the group_size for scaled_blocks that the ranges of a search need: 1 where they read only the diagonal.
int64_t block_of(const RangeOptions& range, const Grid& grid, int64_t in_features);

// The search loop itself. `candidate` makes the scale for each ratio i / options.ratios; losses are as in search_scale.
InputScale search_ratios(LinearInput input, std::span<const Matrix* const> weights, const ActivationStats& stats,
                         const ScaleSearchOptions& options,
                         const std::function<std::vector<float>(double ratio)>& candidate);

// W <- W diag(scale). Throws nothing: the result may hold Inf.
void multiply_columns(Matrix& weight, std::span<const float> scale);

// Replaces scale[h, d], h a query head, by the geometric mean over the heads / kv_heads neighbouring query heads that
// share a kv head. Throws ArgumentError when the sizes disagree.
void pool_heads(std::span<float> scale, const HeadGroups& heads);

}  // namespace metal_marlin

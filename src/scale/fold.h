// Folding per-input-channel scales into the producer of the input, and the check that the block still computes the same.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/values.h"
#include "model/block.h"

namespace metal_marlin {

// Number of producer channels of a fold: hidden_size for norms, kv_heads * head_dim for kVRows, intermediate_size for
// kUpRows. A scale of the tap has in_features entries; for kVRows with grouped queries the entries of the query heads
// of one kv head must be equal, channel by channel (ArgumentError otherwise: such a scale cannot be folded).
// Divides the producer's channels by `scale` and multiplies the columns of every linear of the tap:
//   norm: w / s (offset norms: (1 + w) / s - 1);  v or up: rows and bias / s.
// Source: AWQ, section 3.2, and the folding maps of docs/algorithms.md. NumericError when a value leaves f32's range.
void apply_fold(const Family& family, const ModelConfig& config, const Fold& fold, std::span<const float> scale,
                Block& block);

// Runs `states` (one sequence, [tokens, hidden], the input of the layer) through the block.
Matrix run_block_once(const Family& family, const ModelConfig& config, int64_t layer, const Block& block,
                      const Matrix& states);

// ||(y' - x) - (y - x)||_F / ||y - x||_F for outputs y of the source block and y' of the folded one on input x: the
// change of what the block adds to the residual stream. In f32 rounding leaves it below kInvarianceLimit.
inline constexpr double kInvarianceLimit = 1e-4;
double invariance_error(const Matrix& input, const Matrix& expected, const Matrix& actual);

// Checks that `folded` equals `source` on `input` after the folds of `plan`. On failure each fold is tried alone and
// NumericError names layer, fold, error and limit. Returns the error.
double check_invariance(const Family& family, const ModelConfig& config, int64_t layer, const Block& source,
                        const Block& folded, const ScalePlan& plan, const Matrix& input);

}  // namespace metal_marlin

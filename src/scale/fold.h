// Folding per-input-channel scales into the producer of the input, and the check that the block still computes the
// same.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "core/values.h"
#include "model/block.h"

namespace metal_marlin {

// Divides the channels of the input's producer by `scale` [in_features] and multiplies the columns of every linear of
// the input by it: W <- W diag(s);  norm: w / s (offset norms: (1 + w) / s - 1);  v or up: rows and bias / s. With
// grouped queries a v channel serves several heads: their scales must be equal (ArgumentError otherwise). A norm is
// written in f16, so it is rounded here, and what rounding changed goes into the columns: the factor they get is w /
// f16(w / s), by which the fold stays exact and `scale` is updated to it. Source: AWQ, section 3.2, and the folding
// maps of docs/algorithms.md. NumericError when a value leaves its range.
void apply_fold(const Family& family, const ModelConfig& config, const Fold& fold, std::span<float> scale,
                Block& block);

// Runs `states` (one sequence, [tokens, hidden], the input of the layer) through the block.
Matrix run_block_once(const Family& family, const ModelConfig& config, int64_t layer, const Block& block,
                      const Matrix& states);

// ||y' - y||_F / ||y - x||_F for the outputs y of the source block and y' of the folded one on input x: relative to
// what the block adds to the residual stream. Rounding in f32 leaves it below kInvarianceLimit.
inline constexpr double kInvarianceLimit = 1e-4;
double invariance_error(const Matrix& input, const Matrix& expected, const Matrix& actual);

// Checks that `folded` maps `input` to `expected`, the source block's output. On failure each fold of `plan` is tried
// alone on `reload()`, the source block; NumericError names layer, fold, error and limit. Returns the error.
double check_invariance(const Family& family, const ModelConfig& config, int64_t layer, const Block& folded,
                        const ScalePlan& plan, const Matrix& input, const Matrix& expected,
                        const std::function<Block()>& reload);

}  // namespace metal_marlin

// Folds the scales of input channels into the producer of the input, and checks that the block still computes the same.
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
// written in f16, so it is rounded here. What the rounding changed goes into the columns: they are multiplied by w /
// f16(w / s), which keeps the fold exact, and `scale` is set to that factor. Source: AWQ, section 3.2, and the folding
// maps of docs/algorithms.md. NumericError when a value leaves its range.
void apply_fold(const Family& family, const ModelConfig& config, const Fold& fold, std::span<float> scale,
                Block& block);

// Runs `states` through the block and returns its output. `states` is one sequence [tokens, hidden], the input of the
// layer.
Matrix run_block_once(const Family& family, const ModelConfig& config, int64_t layer, const Block& block,
                      const Matrix& states);

// Returns ||y' - y||_F / ||y - x||_F for input x, the output y of the source block and the output y' of the folded
// block. It is relative to what the block adds to the residual stream. Rounding in f32 leaves it below
// kInvarianceLimit.
inline constexpr double kInvarianceLimit = 1e-4;
double invariance_error(const Matrix& input, const Matrix& expected, const Matrix& actual);

// Checks that `folded` maps `input` to `expected`, the source block's output, and returns the error. On failure it
// tries each fold of `plan` alone on the source block, which `reload` must load again, and throws NumericError naming
// layer, fold, error and limit.
double check_invariance(const Family& family, const ModelConfig& config, int64_t layer, const Block& folded,
                        const ScalePlan& plan, const Matrix& input, const Matrix& expected,
                        const std::function<Block()>& reload);

}  // namespace metal_marlin

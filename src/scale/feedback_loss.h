// The loss of the scale search when GPTQ does the rounding: a candidate's error after error feedback, not before it.
#pragma once

#include <span>
#include <vector>

#include "core/tensor.h"
#include "quantize/rounding/gptq.h"
#include "scale/search.h"

namespace metal_marlin {

// tr(E G E^T) for E = GPTQ(W diag(s)) / diag(s) - W on the rows that options.rows selects, with the ranges of
// options.range. One factorization serves all candidates (scale_factor), so that a candidate costs rows * in^2
// multiply-adds and one pass over the factor. Holds the factor and one matrix of its size.
class FeedbackLoss {
 public:
  static constexpr int64_t kRows = 128;  // of the stack; they choose the exponent as well as all rows do
  // The damping of the search in `quantize`. Scales chosen with less damping, by stronger feedback, suit the
  // calibration text and little else.
  static constexpr double kDamping = 1;
  // `weights`, `gram` and `options` must outlive this object. Throws as make_gptq_factor and search_scale do.
  FeedbackLoss(std::span<const Matrix* const> weights, const Matrix& gram, const ScaleSearchOptions& options,
               const GptqOptions& gptq);
  double operator()(std::span<const float> scale);

 private:
  void bring_to(std::span<const float> scale);

  const Matrix& gram_;
  const ScaleSearchOptions& options_;
  Matrix sample_;      // rows of the stacked weights
  GptqFactor factor_;  // of the Gram matrix of x / scale_
  std::vector<float> scale_;
};

}  // namespace metal_marlin

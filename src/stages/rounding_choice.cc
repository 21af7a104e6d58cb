#include "stages/rounding_choice.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "core/counted.h"
#include "core/threads.h"
#include "quantize/errors.h"
#include "quantize/rounding/rtn.h"
#include "scale/search.h"

namespace metal_marlin {
namespace {

// gram += factor * other. A diagonal entry that cancels to less than nothing becomes zero.
void add(Matrix& gram, const Matrix& other, double factor) {
  const int64_t k = gram.rows();
  parallel_for(k, [&](int64_t r) {
    float* to = gram.row(r).data();
    const float* from = other.row(r).data();
    for (int64_t c = 0; c < k; ++c) to[c] = static_cast<float>(to[c] + factor * from[c]);
    to[r] = std::max(to[r], 0.0f);
  });
}

}  // namespace

std::vector<RoundingChoice> choose_rounding(std::span<const Matrix* const> weights, Matrix& gram,
                                            const Matrix& held_back, double share, const RoundingTrial& trial) {
  if (held_back.rows() != gram.rows() || held_back.cols() != gram.cols()) {
    throw ArgumentError(fmt::format("held-back statistics: expected a Gram matrix [{}, {}], found [{}, {}]",
                                    gram.rows(), gram.cols(), held_back.rows(), held_back.cols()));
  }
  if (trial.grids.size() != weights.size()) {
    throw ArgumentError(fmt::format("rounding trial: expected a grid for each of {}, found {}",
                                    counted(weights.size(), "linear"), trial.grids.size()));
  }
  add(gram, held_back, -share);
  std::vector<RoundingChoice> choices(weights.size());
  std::vector<Matrix> samples;
  std::vector<GroupRanges> ranges;
  for (size_t i = 0; i < weights.size(); ++i) {
    samples.push_back(sample_rows(weights.subspan(i, 1), trial.rows));
    ranges.push_back(trial.ranges(samples[i], gram, i));
    choices[i].rounding = trial.rounding;
    choices[i].rounding.feedback = true;
    choices[i].rounding.gptq.damping = 0;  // until a factor has been tried
    choices[i].nearest_error =
        linear_errors(samples[i], quantize_rtn(samples[i], ranges[i], trial.grids[i]), &held_back).output_error;
  }
  double least_sum = std::numeric_limits<double>::infinity();
  // Whether the damping raised so often is taken: where the sum of squared errors is below `most` times the least so
  // far.
  const auto take = [&](int raises, double most) {
    RoundingOptions rounding = trial.rounding;
    rounding.feedback = true;
    for (int i = 0; i < raises; ++i) rounding.gptq.damping *= trial.raised;
    const GptqFactor factor = make_gptq_factor(gram, rounding.gptq);
    std::vector<RoundingChoice> tried = choices;
    double sum = 0;
    for (size_t i = 0; i < weights.size(); ++i) {
      RoundingChoice& c = tried[i];
      c.rounding = rounding;
      QuantizedTensor q = round_codes(rounding, samples[i], ranges[i], trial.grids[i], &factor);
      c.feedback_error = linear_errors(samples[i], q, &held_back).output_error;
      c.refined_error = c.feedback_error;
      if (rounding.refine) {
        refine_codes(rounding, samples[i], gram, q);
        c.refined_error = linear_errors(samples[i], q, &held_back).output_error;
      }
      const double least = std::min(c.feedback_error, c.refined_error);
      sum += least * least;
    }
    if (!(sum < most * least_sum)) return false;
    least_sum = std::min(least_sum, sum);
    choices = std::move(tried);
    return true;
  };
  take(1, 1);
  if (!take(2, 1 + kDampingTolerance)) take(0, 1 - kDampingTolerance);
  for (RoundingChoice& c : choices) {
    c.rounding.feedback = c.nearest_error >= std::min(c.feedback_error, c.refined_error);
    c.rounding.refine = trial.rounding.refine && c.rounding.feedback && c.refined_error <= c.feedback_error;
  }
  add(gram, held_back, share);
  return choices;
}

}  // namespace metal_marlin

#include "stages/linear_stages.h"

#include <optional>
#include <vector>

#include "kernels/linear_algebra.h"
#include "quantize/clip.h"
#include "scale/feedback_loss.h"
#include "scale/salient.h"

namespace metal_marlin {
namespace {

RangeOptions range_options(const Recipe& recipe) {
  RangeOptions options;
  options.method = recipe.ranges;
  options.signed_scales = recipe.signed_scales;
  return options;
}

}  // namespace

ScaleSearchOptions scale_search_options(const Recipe& recipe, const Grid& grid) {
  ScaleSearchOptions options;
  options.statistic = recipe.statistic;
  options.grid = grid;
  // The published search rounds with absmax (min-max) ranges whatever is chosen afterwards.
  options.range.method = RangeChoice::kAbsmax;
  return options;
}

InputScale search_input_scale(const Recipe& recipe, LinearInput input, std::span<const Matrix* const> weights,
                              const ActivationStats& stats, ScaleSearchOptions& options) {
  std::optional<FeedbackLoss> feedback;
  if (recipe.scale_loss == ScaleLoss::kFeedback) {
    options.range = range_options(recipe);
    options.rows = FeedbackLoss::kRows;
    options.stop_early = true;
    GptqOptions gptq = recipe.rounding.gptq;
    gptq.damping = FeedbackLoss::kDamping;
    feedback.emplace(weights, stats.gram, options, gptq);
    options.loss = [&](std::span<const float> scale) { return (*feedback)(scale); };
  }
  if (recipe.scales == ScaleMethod::kSalient) {
    return std::move(compute_salient_scaling(input, weights, stats, recipe.salient_ratio, options).scale);
  }
  return search_scale(input, weights, stats, options);
}

void fold_statistics(ActivationStats& s, std::span<const float> scale) {
  for (std::vector<float>* values : {&s.mean, &s.max, &s.rms}) {
    for (size_t k = 0; k < values->size(); ++k) (*values)[k] /= scale[k];
  }
  if (!s.gram.empty()) scale_gram(s.gram, scale);
}

GroupRanges choose_ranges(const Recipe& recipe, const Matrix& weight, const Matrix& gram, const Grid& grid,
                          bool may_clip, LinearRecord& record) {
  GroupRanges ranges;
  if (recipe.clip && may_clip) {
    ClipResult clip = search_clip(weight, gram, grid);
    record.clipped_groups = clip.clipped_groups;
    ranges = std::move(clip.ranges);
  } else {
    ranges = group_ranges(weight, grid, range_options(recipe), gram.empty() ? nullptr : &gram);
  }
  if (recipe.least_zero > 0) record.lifted_zeros = lift_zeros(ranges, grid, recipe.least_zero);
  return ranges;
}

RoundingTrial rounding_trial(const Recipe& recipe) {
  RoundingTrial trial;
  trial.rounding = recipe.rounding;
  trial.rounding.gptq.damping = recipe.least_damping;
  trial.raised = raised_damping(recipe.grid);
  return trial;
}

const char* rounding_name(const RoundingOptions& rounding) {
  if (rounding.refine) return "refined";
  return rounding.feedback ? "feedback" : "nearest";
}

QuantizedTensor round_linear_as(const RoundingOptions& rounding, const Matrix& weight, const Matrix& gram,
                                const GroupRanges& ranges, const Grid& grid, const GptqFactor* factor,
                                LinearRecord& record) {
  record.zero_groups = ranges.counts.zero_groups;
  record.raised_scales = ranges.counts.raised;
  record.clamped_scales = ranges.counts.clamped;
  if (factor != nullptr) record.damping = factor->damping;
  RefineCounts counts;
  QuantizedTensor q = round_weight(rounding, weight, gram, ranges, grid, factor, &counts);
  if (rounding.refine) {
    record.refined_codes = counts.changed_codes;
    record.refined_scales = counts.refitted_scales;
  }
  return q;
}

}  // namespace metal_marlin

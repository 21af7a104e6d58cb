#include "recipe/presets.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include "options/choices.h"
#include "options/sources.h"
#include "options/tables.h"
#include "quantize/rounding/gptq.h"

namespace metal_marlin {
namespace {

struct Preset {
  bool scale_search = false;
  RangeChoice range = RangeChoice::kAbsmax;
  bool clip = false;
  bool error_feedback = false;
  Statistic statistic = Statistic::kMean;
  bool refine = false;  // with all that belongs to the recipe awq: guard, signed scales, weight of the first token
};

Preset preset_of(const QuantizeOptions& o) {
  const bool fast = o.effort == Effort::kFast;
  switch (o.method) {
    case Method::kAwq: {
      // Zeros fitted to correlations within a group overfit the calibration text. Error feedback gains what such zeros
      // would gain.
      const bool diagonal = o.scheme == Scheme::kAsymmetric && !fast;
      return {true, diagonal ? RangeChoice::kDiagonal : RangeChoice::kGram, false, !fast, Statistic::kMean, true};
    }
    case Method::kAwqPaper:
      return {true, RangeChoice::kAbsmax, true, false, Statistic::kMean};
    case Method::kAwqSalient:
      return {true, RangeChoice::kAbsmax, false, false, Statistic::kRms};
    case Method::kGptq:
      return {false, RangeChoice::kGram, false, true, Statistic::kMean};
    case Method::kRtn:
      return {};
  }
  throw ArgumentError("method", "--method: expected one of the methods, found another value");
}

}  // namespace

double most_damping(double least, Scheme scheme) {
  Grid grid;
  grid.symmetric = scheme == Scheme::kSymmetric;
  const double raised = raised_damping(grid);
  return least * raised * raised;
}

QuantizeOptions options_in_force(const QuantizeOptions& asked) {
  quantize_options().check_ranges(asked);
  QuantizeOptions o = asked;
  const Preset preset = preset_of(o);
  if (o.method != Method::kAwq) o.effort = Effort::kBest;
  o.scale_search = o.scale_search.value_or(preset.scale_search);
  o.error_feedback = o.error_feedback.value_or(preset.error_feedback);
  o.range = o.range.value_or(preset.range);
  const bool searched = o.range != RangeChoice::kAbsmax;
  const bool by_gram = o.range == RangeChoice::kGram || o.range == RangeChoice::kDiagonal;
  o.clip = o.clip.value_or(preset.clip && !searched);
  if (*o.clip && searched) {
    throw ArgumentError("clip", fmt::format("--clip on: shrinks absmax ranges and cannot be combined with --range {}",
                                            name_of(*o.range)));
  }
  const bool symmetric = o.scheme == Scheme::kSymmetric;
  o.signed_scales = o.signed_scales.value_or(preset.refine && searched && symmetric);
  if (*o.signed_scales && !(searched && symmetric)) {
    throw ArgumentError(
        "signed-scales",
        "--signed-scales on: only symmetric grids (--scheme sym) with searched ranges (--range mse, gram or diagonal) "
        "have them");
  }
  o.refine = o.refine.value_or(preset.refine);
  // Statistics from a file cannot be split into calibration and validation tokens.
  o.guard = o.guard.value_or(preset.refine) && *o.error_feedback && !from_statistics(o.calibration);
  o.activation_method = o.activation_method.value_or(preset.statistic);
  const bool feedback = preset.refine && *o.error_feedback && by_gram;
  o.awq_loss = o.awq_loss.value_or(feedback ? ScaleLoss::kFeedback : ScaleLoss::kLinear);
  const bool one_search = *o.scale_search && o.method != Method::kAwqSalient;
  if (*o.awq_loss == ScaleLoss::kFeedback && one_search && !*o.error_feedback) {
    throw ArgumentError("awq-loss", fmt::format("--awq-loss feedback: {} rounds without error feedback; use linear",
                                                rounding_option(o)));
  }
  if (!one_search || (*o.awq_loss == ScaleLoss::kBlock && from_statistics(o.calibration))) {
    o.awq_loss = ScaleLoss::kLinear;
  }
  o.first_token_weight = o.first_token_weight.value_or(preset.refine ? kFirstTokenWeight : 1);
  o.calibration.samples = samples_of(o);
  o.builtin_share = builtin_share_of(o);
  // Without a validation split, the damping that the guard chooses most often.
  const double least = o.damping.value_or(GptqOptions{}.damping);
  const bool most = !o.damping && !*o.guard && preset.refine && *o.error_feedback;
  o.damping = most ? most_damping(least, o.scheme) : least;
  return o;
}

}  // namespace metal_marlin

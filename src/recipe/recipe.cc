#include "recipe/recipe.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>

#include "kernels/gemm.h"
#include "recipe/presets.h"

namespace metal_marlin {
Recipe stages_of(const QuantizeOptions& o) {
  const QuantizeOptions s = options_in_force(o);
  Recipe r;
  r.method = s.method;
  r.scales = s.scale_search != true            ? ScaleMethod::kNone
             : s.method == Method::kAwqSalient ? ScaleMethod::kSalient
                                               : ScaleMethod::kAwq;
  r.rounding.feedback = s.error_feedback == true;
  r.rounding.gptq.act_order = s.act_order;
  r.rounding.refine = *s.refine;
  r.ranges = *s.range;
  r.clip = *s.clip;
  r.grid.symmetric = s.scheme == Scheme::kSymmetric;
  r.signed_scales = *s.signed_scales;
  r.guard = *s.guard;
  r.statistic = *s.activation_method;
  r.scale_loss = *s.awq_loss;
  r.salient_ratio = s.salient_ratio;
  r.first_token_weight = *s.first_token_weight;
  r.least_damping = o.damping.value_or(GptqOptions{}.damping);
  r.rounding.gptq.damping = r.guard ? most_damping(r.least_damping, s.scheme) : *s.damping;
  if (o.bits < 2 || o.bits > 8) {
    throw ArgumentError("bits", fmt::format("--bits: expected 2 to 8, found {}", o.bits));
  }
  r.grid.bits = o.bits;
  return r;
}

int64_t guard_sequences(const Recipe& recipe, int64_t sequences) {
  return recipe.guard && sequences >= 2 ? std::max<int64_t>(1, sequences / 8) : 0;
}

MatmulPrecision statistics_precision(std::optional<MatmulPrecision> asked) {
  const bool half = asked ? asked == MatmulPrecision::kBF16 : prefers_bf16_gemm();
  return half && has_bf16_gemm() ? MatmulPrecision::kBF16 : MatmulPrecision::kF32;
}

bool ranges_by_gram(const Recipe& r) {
  return r.ranges == RangeChoice::kGram || r.ranges == RangeChoice::kDiagonal;
}

bool needs_gram(const Recipe& r) {
  return r.scales != ScaleMethod::kNone || r.clip || ranges_by_gram(r) || r.rounding.feedback || r.rounding.refine;
}

}  // namespace metal_marlin

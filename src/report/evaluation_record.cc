#include "report/evaluation_record.h"

namespace metal_marlin {

EvaluationRecord evaluation_record(const Evaluation& e) {
  EvaluationRecord out;
  out.perplexity.quantized = e.perplexity;
  out.positions = e.positions;
  out.perplexity.reference = e.reference_perplexity;
  out.kl_divergence = {e.kl_mean, e.kl_standard_error, e.kl_p99};
  out.top1_agreement = e.top1_agreement;
  return out;
}

EvaluationRecord card_figures(const EvaluationRecord& model) {
  EvaluationRecord out;
  if (!model.kl_divergence.mean) return out;
  out.perplexity = model.perplexity;
  out.kl_divergence = model.kl_divergence;
  out.top1_agreement = model.top1_agreement;
  out.positions = model.positions;
  return out;
}

}  // namespace metal_marlin

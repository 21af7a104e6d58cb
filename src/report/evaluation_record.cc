#include "report/evaluation_record.h"

#include <nlohmann/json.hpp>

#include "records/json_records.h"

namespace metal_marlin {

using nlohmann::json;

EvaluationRecord evaluation_record(const Evaluation& e) {
  EvaluationRecord out;
  out.perplexity.quantized = e.perplexity;
  out.positions = e.positions;
  if (!e.has_reference) return out;
  out.perplexity.reference = e.reference_perplexity;
  out.kl_divergence = {e.kl_mean, e.kl_standard_error, e.kl_p99};
  out.top1_agreement = e.top1_agreement;
  return out;
}

std::string card_figures(const EvaluationRecord& model) {
  json figures = json::object();
  if (model.kl_divergence.mean) {
    const json all = json_of(model);
    for (const char* key : {"perplexity", "kl_divergence", "top1_agreement", "positions"}) figures[key] = all.at(key);
  }
  return figures.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace metal_marlin

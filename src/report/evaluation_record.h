// The figures of an evaluation as a record.
#pragma once

#include <metal_marlin/evaluate.h>
#include <metal_marlin/report_records.h>

#include <string>

namespace metal_marlin {

// The figures of an evaluation; those against the reference only with one. Size and bits per weight are left at 0.
EvaluationRecord evaluation_record(const Evaluation& evaluation);
// Those that go into the model card, as a JSON object: deterministic ones only; {} without an evaluation.
std::string card_figures(const EvaluationRecord& model);

}  // namespace metal_marlin

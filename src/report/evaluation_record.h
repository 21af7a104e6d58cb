// The figures of an evaluation as a record.
#pragma once

#include <metal_marlin/evaluate.h>
#include <metal_marlin/report_records.h>

namespace metal_marlin {

// The figures of an evaluation; those against the reference only with one. Size and bits per weight are left at 0.
EvaluationRecord evaluation_record(const Evaluation& evaluation);
// Those that go into the model card: deterministic ones only; none without an evaluation against the source.
EvaluationRecord card_figures(const EvaluationRecord& model);

}  // namespace metal_marlin

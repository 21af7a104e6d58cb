// What a checkpoint of this program says of its making, for the card of what is converted from it.
#pragma once

#include <metal_marlin/report_records.h>

#include <string>

namespace metal_marlin {

struct CardFacts {
  std::string name;          // of the model that was quantized, "org/name" or a folder's name; empty: not told
  std::string calibration;   // as CheckpointPlan has them
  std::string evaluation;    // likewise
  EvaluationRecord figures;  // likewise
};

// From report.json in `path` (a folder, or a file in one) or, where several formats were written at once, beside that
// folder; without a report from the front matter of README.md. What is not there, or is of another program, stays
// empty. A card that cannot be read does not stop a conversion.
CardFacts card_facts(const std::string& path);

// Those of an evaluation's figures that go into the model card: deterministic ones only; none without an evaluation
// against the source.
EvaluationRecord card_figures(const EvaluationRecord& model);

}  // namespace metal_marlin

// Measures how good a checkpoint is: its perplexity and, against a reference, KL divergence and agreement of the top
// token.
#pragma once

#include <metal_marlin/compute.h>
#include <metal_marlin/export.h>
#include <metal_marlin/options.h>
#include <metal_marlin/progress.h>
#include <metal_marlin/report_records.h>

#include <string>

namespace metal_marlin {

struct Evaluation {
  // What report.json says of a result. perplexity.quantized is that of the model, quantized or not. Without a reference
  // its perplexity, the divergence and the agreement are empty. Bits and bytes are those of the weights on disk, scales
  // and zeros included.
  EvaluationRecord model;

  METAL_MARLIN_API std::string to_json() const;

  static void describe(auto& field, auto& self) {
    field("model", self.model, "the figures, with the keys of report.json");
    field("perplexity", self.model.perplexity.quantized, "of the model, quantized or not");
    field("reference_perplexity", self.model.perplexity.reference, "null without a reference");
  }
};

// Runs both models block by block in lockstep, so that memory holds one block of each. `reference` may be empty.
// `compute`: arithmetic of the model; that of the reference is always f32.
METAL_MARLIN_API Evaluation evaluate_model(const std::string& model, const std::string& reference,
                                           const EvaluationOptions& options, const MachineOptions& machine,
                                           const Observer& observer = {}, const ComputeOptions& compute = {});

}  // namespace metal_marlin

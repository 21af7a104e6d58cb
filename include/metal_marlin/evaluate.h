// Measures how good a checkpoint is: its perplexity and, against a reference, KL divergence and agreement of the top
// token.
#pragma once

#include <metal_marlin/compute.h>
#include <metal_marlin/export.h>
#include <metal_marlin/options.h>
#include <metal_marlin/progress.h>

#include <optional>
#include <string>

namespace metal_marlin {

struct Evaluation {
  int64_t positions = 0;
  double perplexity = 0;
  // Empty without a reference.
  std::optional<double> reference_perplexity;
  std::optional<double> kl_mean;  // KL(reference || model), nats per position
  std::optional<double> kl_standard_error;
  std::optional<double> kl_p99;
  std::optional<double> top1_agreement;  // share of positions, 0..1

  double bits_per_weight = 0;  // of all weights, scales and zeros included
  uint64_t bytes = 0;          // of the weights on disk

  // {"model": {...}} with the keys of report.json; beside it "perplexity" of the model, quantized or not, and
  // "reference_perplexity" (null without a reference).
  METAL_MARLIN_API std::string to_json() const;
};

// Runs both models block by block in lockstep, so that memory holds one block of each. `reference` may be empty.
// `compute`: arithmetic of the model; that of the reference is always f32.
METAL_MARLIN_API Evaluation evaluate_model(const std::string& model, const std::string& reference,
                                           const EvaluationOptions& options, const MachineOptions& machine,
                                           const Observer& observer = {}, const ComputeOptions& compute = {});

}  // namespace metal_marlin

// report.json of a finished run (schema: docs/report.md).
#pragma once

#include <metal_marlin/evaluate.h>

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "pipeline/memory_plan.h"
#include "pipeline/progress.h"
#include "pipeline/recipe.h"
#include "pipeline/texts.h"
#include "write/checkpoint_writer.h"

namespace metal_marlin {

inline constexpr int kReportSchema = 1;

struct RunFacts {
  std::string model;
  std::string output;
  uint64_t fingerprint = 0;
  nlohmann::json identity;  // run_identity.h
  int64_t resumed_blocks = 0;
  double forward_operations = 0;  // of the stage "forward": additions and multiplications of linears and attention
  const RunTexts* texts = nullptr;
  int64_t calibration_tokens = 0;      // that the statistics are of
  bool first_rows = true;              // whether they know the inputs of first tokens
  std::string few_tokens_json = "[]";  // few_tokens.h
  MemoryPlan plan;
  std::optional<Evaluation> evaluation;                      // bits and bytes are filled in from `written`
  std::vector<std::pair<std::string, WriteReport>> written;  // by format, the first is the one that `model` speaks of
  std::vector<Skipped> skipped;
  std::vector<nlohmann::json> blocks;
  nlohmann::json mixed;  // mixed_bits.h; null where no bits were chosen
};

nlohmann::json build_report(const ModelSource& source, const Recipe& recipe, const QuantizeOptions& options,
                            const RunFacts& facts, Tracker& tracker);
// The figures that go into the model card: deterministic ones only.
nlohmann::json model_figures(const Evaluation& evaluation);
// --bits mixed --max-kl X --evaluate none: the limit has chosen the bits, and nothing was measured that it could judge.
bool only_estimated(const nlohmann::json& report);
// False when the report's mean KL divergence exceeds max_kl >= 0, or when there is none to judge by and it is not only
// estimated.
bool gate_verdict(const nlohmann::json& report, double max_kl);
// The report's "gate": max_kl and passed, both null without a limit (max_kl < 0).
nlohmann::json gate_section(const nlohmann::json& report, double max_kl);

}  // namespace metal_marlin

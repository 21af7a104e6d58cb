// report.json of a finished run (schema: docs/report.md).
#pragma once

#include <metal_marlin/evaluate.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "pipeline/memory_plan.h"
#include "pipeline/progress.h"
#include "pipeline/recipe.h"
#include "pipeline/texts.h"
#include "report/block_record.h"
#include "write/checkpoint_writer.h"

namespace metal_marlin {

struct RunFacts {
  std::string model;
  std::string output;
  uint64_t fingerprint = 0;
  IdentityRecord identity;
  int64_t resumed_blocks = 0;
  double forward_operations = 0;  // of the stage "forward": additions and multiplications of linears and attention
  const RunTexts* texts = nullptr;
  std::optional<TextRecord> made_from;  // of statistics from a file: their text
  int64_t calibration_tokens = 0;       // that the statistics are of
  bool first_rows = true;               // whether they know the inputs of first tokens
  std::vector<FewTokensRecord> few_tokens;
  MemoryRecord plan;
  std::optional<Evaluation> evaluation;                      // bits and bytes are filled in from `written`
  std::vector<std::pair<std::string, WriteReport>> written;  // by format, the first is the one that `model` speaks of
  std::vector<Skipped> skipped;
  std::vector<BlockRecord> blocks;
  std::optional<MixedRecord> mixed;  // where bits were chosen
};

Report build_report(const ModelSource& source, const Recipe& recipe, const QuantizeOptions& options,
                    const RunFacts& facts, Tracker& tracker);
// The figures of an evaluation; those against the reference only with one. Size and bits per weight are left at 0.
EvaluationRecord evaluation_record(const Evaluation& evaluation);
// Those that go into the model card, as a JSON object: deterministic ones only; {} without an evaluation.
std::string card_figures(const EvaluationRecord& model);
// --bits mixed --max-kl X --evaluate none: the limit has chosen the bits, and nothing was measured that it could judge.
bool only_estimated(const Report& report);
// False when the report's mean KL divergence exceeds max_kl, or when there is none to judge by and it is not only
// estimated.
bool gate_verdict(const Report& report, std::optional<double> max_kl);
// Both empty without a limit.
GateRecord gate_record(const Report& report, std::optional<double> max_kl);

}  // namespace metal_marlin

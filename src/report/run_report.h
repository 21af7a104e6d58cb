// report.json of a finished run (schema: docs/report.md).
#pragma once

#include <metal_marlin/report_records.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/progress.h"
#include "recipe/recipe.h"
#include "recipe/tensor_plan.h"
#include "records/block_record.h"
#include "text/texts.h"
#include "write/checkpoint_writer.h"

namespace metal_marlin {

struct RunFacts {
  std::string model;
  std::string output;
  std::string fingerprint;
  IdentityRecord identity;
  int64_t resumed_blocks = 0;
  double forward_operations = 0;  // of the stage "forward": additions and multiplications of linears and attention
  const RunTexts* texts = nullptr;
  std::optional<TextRecord> made_from;  // of statistics from a file: their text
  int64_t calibration_tokens = 0;       // that the statistics are of
  bool first_rows = true;               // whether they know the inputs of first tokens
  std::vector<FewTokensRecord> few_tokens;
  MemoryRecord plan;
  std::optional<EvaluationRecord> evaluation;                // bits and bytes are filled in from `written`
  std::vector<std::pair<std::string, WriteReport>> written;  // by format, the first is the one that `model` speaks of
  std::vector<Skipped> skipped;
  std::vector<BlockRecord> blocks;
  std::optional<MixedRecord> mixed;  // where bits were chosen
};

Report build_report(const ModelSource& source, const Recipe& recipe, const QuantizeOptions& options,
                    const RunFacts& facts, Tracker& tracker);
}  // namespace metal_marlin

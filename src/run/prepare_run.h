// What a run does before its first block: the checks, the texts, the plan of memory, and the bits of each linear.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/progress.h"
#include "plan/few_tokens.h"
#include "plan/memory_plan.h"
#include "recipe/recipe.h"
#include "recipe/tensor_plan.h"
#include "run/journal/journal.h"
#include "run/output/output_folder.h"
#include "run/resume.h"
#include "statistics/stats_file.h"
#include "text/texts.h"
#include "tokenizer/token_set.h"

namespace metal_marlin {

// Of what a run is made, unchanged until its end. It must outlive the calls.
struct RunJob {
  const ModelSource& source;
  const QuantizeOptions& options;  // with what follows from the method (presets.h)
  const std::string& output;       // as the user gave it
};

// Statistics from a file; no file where a text is given.
struct RunStatistics {
  std::unique_ptr<StatsFile> file;
  TextRecord text;                      // what the report says of it
  std::optional<TextRecord> made_from;  // its own text
};
// Opens and checks it, when the options name one.
RunStatistics open_statistics(const RunJob& job, const Recipe& recipe);

// Every check that can fail before anything is written or sampled. Warns of patterns without effect.
void check_before_work(const RunJob& job, const Recipe& recipe, const std::vector<LayerTensors>& layers,
                       Tracker& tracker);

// What qualifies the figures of a run.
struct Caveats {
  FewTokens few_tokens;
  bool narrowing = false;  // the evaluation does not see that tensors of float32 are written in 16 bits
};
// Warns of them. `tokens`: of the calibration text.
Caveats warn_of_caveats(const RunJob& job, const Recipe& recipe, const std::vector<LayerTensors>& layers,
                        const RunStatistics& statistics, int64_t tokens, bool evaluates, Tracker& tracker);

// Where a run writes, and from where it goes on.
struct RunPlace {
  OutputFolder& folder;
  Journal& journal;
  const IdentityRecord& identity;
  Start start;
};

struct PreparedRun {
  RunTexts texts;
  MemoryRecord memory;
  Caveats caveats;
};
// Begins the journal, or takes from it what an interrupted run had prepared. A faulty text, a budget that cannot be
// kept and, in a fresh run, NaN or infinity in the weights are errors that leave the output folder as it was; text that
// is made or selected takes long, so the journal begins before it.
PreparedRun prepare_run(const RunJob& job, const Recipe& recipe, const std::vector<LayerTensors>& layers,
                        const RunStatistics& statistics, const RunPlace& where, Tracker& tracker);

// The bits of each linear, chosen by what their errors cost.
struct ChosenBits {
  LinearGrids grids;
  MixedRecord record;
};
// The measurement is stored in the journal, so that a resumed run makes the same choice. ArgumentError when no choice
// meets the limit: then the journal is removed, since a command with another limit is another run.
ChosenBits choose_run_bits(const RunJob& job, const Recipe& recipe, const std::vector<LayerTensors>& layers,
                           const TokenSet& calibration, Journal& journal, Tracker& tracker);

}  // namespace metal_marlin

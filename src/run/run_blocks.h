// The loop over the blocks of a run: finished ones are replayed, the others quantized and written to the journal.
#pragma once

#include <cstdint>
#include <vector>

#include "core/progress.h"
#include "recipe/recipe.h"
#include "recipe/tensor_plan.h"
#include "run/journal/journal.h"
#include "run/run_streams.h"
#include "stages/fold_block.h"
#include "statistics/stats_file.h"
#include "text/texts.h"

namespace metal_marlin {

// What the blocks are made of. It must outlive the calls.
struct BlocksJob {
  const ModelSource& source;
  const Recipe& recipe;
  const std::vector<LayerTensors>& layers;  // the plan of every layer
  const RunTexts& texts;
  const StatsFile* statistics = nullptr;  // statistics from a file in place of the calibration text's
  bool keep_states = true;                // the states are in memory, and may be saved
};

struct BlocksDone {
  int64_t resumed = 0;            // blocks that an earlier run had finished
  double forward_operations = 0;  // of the calibration stream, without replayed blocks
};

// Afterwards every block is in the journal, and the held-back streams have passed the last one. FormatError when the
// journal is damaged.
BlocksDone run_blocks(const BlocksJob& job, RunStreams& streams, Journal& journal, Tracker& tracker);

// A block of the journal, checked against the model and the plan: FormatError naming the file.
FinishedBlock finished_block(const ModelSource& source, const std::vector<LayerTensors>& layers, const Journal& journal,
                             int64_t layer);

// The statistics of the inputs of the source's block, weighed as the recipe says, for which the calibration stream and
// the reference pass through it.
struct MeasuredStats {
  BlockStats stats;
  double operations = 0;  // of the calibration stream
};
MeasuredStats measure_stats(const BlocksJob& job, int64_t layer, const Block& block, RunStreams& streams,
                            Tracker& tracker);

}  // namespace metal_marlin

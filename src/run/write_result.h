// From the journal's blocks to the checkpoints of a run, in every format that was asked for.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/progress.h"
#include "recipe/recipe.h"
#include "recipe/tensor_plan.h"
#include "records/block_record.h"
#include "stages/finished_block.h"
#include "text/texts.h"
#include "tokenizer/token_set.h"
#include "write/checkpoint_writer.h"

namespace metal_marlin {

// What the model card says of the run.
struct CardTexts {
  EvaluationRecord figures;  // of a run without evaluation: empty
  std::string calibration;   // calibration_text()
  std::string evaluation;    // evaluated_text()
};
// The evaluation's text for the model card: the file without its folder, and how much of it was used.
std::string evaluated_text(const EvaluationOptions& options, const TokenSet& held_back);

// What a writer needs to know of the linears and of the tensors that scales were folded into. `layers` and `blocks`
// are the plan and the record of every layer.
CheckpointPlan result_plan(const Recipe& recipe, std::span<const LayerTensors> layers,
                           std::span<const BlockRecord> blocks, const CardTexts& card);
// The layer of every tensor of the plan that the journal holds.
std::map<std::string, int64_t> journal_layers(std::span<const LayerTensors> layers,
                                              std::span<const BlockRecord> blocks);

// What the written file of a format cannot hold as it was. tell_of_narrowing: whether to say that the report's figures
// do not see it when values of float32 became 16 bits.
std::vector<std::string> conversion_warnings(const ModelSource& source, const std::string& format,
                                             const WriteReport& report, std::span<const BlockRecord> blocks,
                                             bool tell_of_narrowing);

using ReadBlock = std::function<FinishedBlock(int64_t layer)>;
// Writes a checkpoint of each format: into `place`, or into folders of it named like the formats when there are
// several. `read`: gives a finished block, checked.
std::vector<std::pair<std::string, WriteReport>> write_formats(
    const ModelSource& source, const std::vector<std::string>& formats, const CheckpointPlan& plan,
    const std::map<std::string, int64_t>& layer_of, const ReadBlock& read, const std::string& place, Tracker& tracker);

}  // namespace metal_marlin

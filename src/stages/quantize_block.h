// One block: scales found and folded, the fold checked, every linear rounded.
#pragma once

#include <array>
#include <vector>

#include "core/progress.h"
#include "core/values.h"
#include "model/block.h"
#include "recipe/recipe.h"
#include "recipe/tensor_plan.h"
#include "records/block_record.h"
#include "stages/finished_block.h"

namespace metal_marlin {

// Another grid for the linears of an input, and what it costs: the squared relative output error of a sample of their
// rows on the calibration text, rounded as the recipe says. 0 for kUnquantizedBits.
struct GridTrial {
  Grid grid;
  double loss = 0;
};
inline constexpr int64_t kTrialRows = 128;

struct BlockTask {
  const ModelSource* source = nullptr;
  const Recipe* recipe = nullptr;
  const LayerTensors* tensors = nullptr;
  int64_t layer = 0;
  std::array<ActivationStats, kLinearInputs>* stats =
      nullptr;  // of the calibration text; folded along with the weights
  std::array<ActivationStats, kLinearInputs>* held_back =
      nullptr;  // of held-back text, for its output error only; may be null
  // Part of the calibration text's tokens, guard_share of them, by which the rounding is chosen (rounding_choice.h);
  // null: it is as the recipe says.
  std::array<ActivationStats, kLinearInputs>* guard = nullptr;
  double guard_share = 0;
  // One sequence that enters the block and what the source block makes of it, for the invariance check.
  Matrix invariance_input;
  Matrix invariance_output;
  // ScaleLoss::kBlock: sequences that enter the block.
  Matrix replay_states;
  std::vector<int64_t> replay_lengths;
  // Not null: takes the block after folding, before rounding. (`stats` are then those of its inputs.)
  Block* folded = nullptr;
  // Not null: grids to try for each input, beside those that are taken.
  std::array<std::vector<GridTrial>, kLinearInputs>* trials = nullptr;
};

struct BlockResult {
  FinishedBlock finished;
  BlockRecord record;
};

// "...v_proj.bias" of "...v_proj.weight".
std::string bias_name(const std::string& weight);

// `block` holds the source's weights and is left as a reader of the written checkpoint sees it: norms rounded to f16,
// linears dequantized.
BlockResult quantize_block(BlockTask& task, Block& block, Tracker& tracker);

// Puts a finished block's values into `block`, which holds the source's weights. Of a file it must have passed
// check_finished().
void apply_finished(const ModelSource& source, int64_t layer, const FinishedBlock& finished, Block& block);

}  // namespace metal_marlin

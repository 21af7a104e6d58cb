// The first half of a block's quantization: scales of its inputs' channels are found and folded into what comes before.
#pragma once

#include <metal_marlin/report_records.h>

#include <array>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "checkpoint/model_source.h"
#include "core/progress.h"
#include "core/values.h"
#include "model/block.h"
#include "recipe/recipe.h"
#include "recipe/tensor_plan.h"

namespace metal_marlin {

// Which block is quantized, and how. What it refers to must outlive the calls.
struct BlockJob {
  const ModelSource& source;
  const Recipe& recipe;
  const LayerTensors& tensors;
  int64_t layer = 0;

  // Time from now on belongs to `stage`, of this layer.
  void enter(Tracker& tracker, const char* stage) const {
    tracker.enter(stage, layer, source.config().num_hidden_layers);
  }
};

// By LinearInput. in_features 0: there are none of this input.
using StatsByInput = std::array<ActivationStats, kLinearInputs>;

// The statistics of a block's inputs. They change with the block: folding divides their channels by the scales.
struct BlockStats {
  StatsByInput calibration;  // of all calibration text
  StatsByInput held_back;    // of held-back text, for the report's errors only
  // Of the validation split, which is validation_share of the calibration text's tokens: by it the rounding is chosen
  // (rounding_choice.h). 0: there is no split, and the rounding is as the recipe says.
  StatsByInput validation;
  double validation_share = 0;
};

// States that enter the block, by which its folds are checked and its scales are searched.
struct BlockProbe {
  Matrix input;          // rows of one sequence, from its beginning
  Matrix output;         // what the source's block makes of them in f32; empty: fold_block() computes it
  Matrix replay_states;  // whole sequences, for ScaleLoss::kBlock; empty otherwise
  std::vector<int64_t> replay_lengths;
};

struct FoldedBlock {
  Block block;                      // computes what it did before
  BlockStats stats;                 // of the inputs that it has now
  ScalePlan plan;                   // the scales that were folded, in this order
  std::vector<Fold> folds;          // the fold of each scale of the plan
  std::vector<ScaleRecord> scales;  // the same for the report
  double invariance_error = 0;      // check_invariance(); 0 where nothing was folded
};

// The linears that are quantized. A fold changes every linear of its input, which must be written anew, so it is
// applied only where all of them are quantized.
std::set<LinearKind> quantized_kinds(const LayerTensors& tensors);

// Finds the scales of one input by the recipe's search. `block` is the same afterwards; ScaleLoss::kBlock tries rounded
// weights in it. Throws as search_scale does.
InputScale find_scale(const BlockJob& job, const Fold& fold, Block& block, const ActivationStats& stats,
                      const BlockProbe& probe);

// Finds and folds the scales of every fold that the plan allows, in the family's order, and checks that the block still
// computes the same. Without a scale method of the recipe nothing changes. NumericError where a fold breaks the block.
FoldedBlock fold_block(const BlockJob& job, Block block, BlockStats stats, const BlockProbe& probe, Tracker& tracker);

// All linears of an input, whether they are quantized or not.
std::vector<LinearKind> linears_of(LinearInput input);

}  // namespace metal_marlin

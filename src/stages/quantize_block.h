// One block: scales found and folded, the fold checked, every linear rounded, the result measured.
#pragma once

#include <cstdint>
#include <map>
#include <set>

#include "core/progress.h"
#include "model/block.h"
#include "records/block_record.h"
#include "stages/finished_block.h"
#include "stages/fold_block.h"

namespace metal_marlin {

struct BlockResult {
  FinishedBlock finished;
  BlockRecord record;
  Block block;  // as a reader of the written checkpoint sees it: norms rounded to f16, linears dequantized
};

// `block` holds the source's weights, `stats` are those of its inputs. Throws as fold_block(), round_block() and
// changed_tensors() do.
BlockResult quantize_block(const BlockJob& job, Block block, BlockStats stats, const BlockProbe& probe,
                           Tracker& tracker);

// The relative errors of these linears of `block` against the source's: of the weights that a checkpoint stands for,
// without the scales that were folded into neighbours, as `compare` finds them. One linear of the source is held at a
// time.
std::map<LinearKind, double> weight_errors(const ModelSource& source, int64_t layer, const Block& block,
                                           const std::set<LinearKind>& kinds);

}  // namespace metal_marlin

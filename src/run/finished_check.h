// A block that an earlier run has finished, read from the journal: whether it is of this model and run. Files may be
// damaged.
#pragma once

#include <string>

#include "checkpoint/model_source.h"
#include "recipe/recipe.h"
#include "recipe/tensor_plan.h"
#include "records/block_record.h"
#include "stages/finished_block.h"

namespace metal_marlin {

// FormatError naming the file (`place`), the tensor, what was expected and found, unless `finished` has the codes of
// the planned linears in their shapes and grids, and in F16, with as many values as the model has, the changed tensors
// that its report lists.
void check_finished(const ModelSource& source, int64_t layer, const LayerTensors& tensors, const BlockRecord& record,
                    const FinishedBlock& finished, const std::string& place);

}  // namespace metal_marlin

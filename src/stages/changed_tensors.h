// The tensors of a block that are not quantized and that scales were folded into.
#pragma once

#include <cstdint>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/model_source.h"
#include "core/tensor.h"
#include "model/block.h"
#include "records/block_record.h"

namespace metal_marlin {

struct ChangedTensors {
  std::vector<OwnedTensor> tensors;    // as the checkpoint will hold them, in F16
  std::vector<FlushedRecord> flushed;  // those in which values became 0
  std::vector<std::string> names() const;
};

// What the folds have changed in the layer's block beside its quantized linears: norms, biases of v and up, and the
// weights of these where they stay in 16 bits. The same values of `block` are rounded to f16, as a reader of the
// checkpoint finds them. NumericError when a value exceeds the range of f16.
ChangedTensors changed_tensors(const ModelSource& source, int64_t layer, std::span<const Fold> folds,
                               const std::set<LinearKind>& quantized, Block& block);

}  // namespace metal_marlin

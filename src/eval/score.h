// Scores the final states of chunks batch by batch, so that memory holds only a few rows of logits.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "core/tensor.h"
#include "eval/metrics.h"
#include "model/model.h"

namespace metal_marlin {

// states [tokens of `chunks`, hidden] is the output of the last block; reference is that of the other model, or null.
// Every position except a chunk's first is scored, with the logits of the position before. on_chunk is called after
// every chunk.
void score(const Head& head, const Matrix& states, const Head* reference_head, const Matrix* reference,
           std::span<const std::vector<int32_t>> chunks, Metrics& metrics,
           const std::function<void(int64_t done, int64_t total)>& on_chunk = {});

}  // namespace metal_marlin

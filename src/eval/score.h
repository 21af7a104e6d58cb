// Logits of finished states, scored batch by batch so that memory holds a few rows of logits.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "core/tensor.h"
#include "eval/metrics.h"
#include "model/model.h"

namespace metal_marlin {

// states [tokens of `chunks`, hidden]: the output of the last block; reference: null for none. Every position but a
// chunk's first is scored (its logits come from the position before). on_chunk is told of every chunk that is done.
void score(const Head& head, const Matrix& states, const Head* reference_head, const Matrix* reference,
           std::span<const std::vector<int32_t>> chunks, Metrics& metrics,
           const std::function<void(int64_t done, int64_t total)>& on_chunk = {});

}  // namespace metal_marlin

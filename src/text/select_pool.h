// --select: a pool of sequences passes through the first blocks of the model, and those that cover the channels of the
// activations there best are kept (selection.h).
#pragma once

#include <metal_marlin/options.h>

#include <cstdint>
#include <string>
#include <vector>

#include "checkpoint/model_source.h"
#include "core/progress.h"
#include "tokenizer/token_set.h"

namespace metal_marlin {

// How many blocks the pool passes through.
int64_t profiled_blocks(const ModelSource& source);

struct PoolSelection {
  std::vector<int64_t> sequences;  // of the pool, ascending
  int64_t blocks = 0;              // through which the pool passed
  double coverage = 0;             // of the chosen sequences, as a share of the whole pool's
};

// `group`: the source of each sequence; `quota`: how many to choose of each source. `scratch`: path of a file for the
// states when they exceed a third of the memory allowed. Cost: the forward pass of the pool through those blocks.
PoolSelection select_pool(const ModelSource& source, const TokenSet& pool, const std::vector<int64_t>& group,
                          const std::vector<int64_t>& quota, const MachineOptions& machine, const std::string& scratch,
                          Tracker& tracker);

// Bytes held beside the program for a pool of `sequences` of `length` tokens.
uint64_t select_pool_bytes(const ModelSource& source, const MachineOptions& machine, int64_t sequences, int64_t length);

}  // namespace metal_marlin

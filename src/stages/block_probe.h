// What a block's quantization is checked and searched with beside its statistics: some of the states that enter it.
#pragma once

#include "model/state_store.h"
#include "stages/quantize_block.h"

namespace metal_marlin {

// task.invariance_input: the first rows of the first sequence; what comes later in it cannot reach them.
void take_probe(const StateStore& states, BlockTask& task);
// task.replay_states and task.replay_lengths: the first sequences.
void take_replay(const StateStore& states, BlockTask& task);

inline constexpr int64_t kInvarianceTokens = 256;

}  // namespace metal_marlin

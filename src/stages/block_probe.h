// What a block's quantization is checked and searched with beside its statistics: some of the states that enter it.
#pragma once

#include "model/stream.h"
#include "stages/fold_block.h"

namespace metal_marlin {

inline constexpr int64_t kInvarianceTokens = 256;

// The states that enter the next block: the first rows of the first sequence (what comes later in it cannot reach them)
// and, where it is to be replayed (ScaleLoss::kBlock), the first sequences. Call it before the stream passes through
// the block.
BlockProbe take_probe(const Stream& states, bool replayed);
// The same where there are no texts: the embedding of some tokens, whatever the block.
BlockProbe probe_of_tokens(const ModelSource& source);
// What the source's block has made of the probe's input. Call it after the stream has passed through the block, in f32.
void take_output(const Stream& states, BlockProbe& probe);

}  // namespace metal_marlin

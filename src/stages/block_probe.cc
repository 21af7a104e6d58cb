#include "stages/block_probe.h"

#include <algorithm>

namespace metal_marlin {
namespace {

constexpr int64_t kReplayTokens = 2048;

}  // namespace

void take_probe(const StateStore& states, BlockTask& task) {
  task.invariance_input =
      Matrix(std::min(kInvarianceTokens, states.batches().front().lengths.front()), states.hidden());
  states.read_rows(0, task.invariance_input.rows(), task.invariance_input.data());
}

void take_replay(const StateStore& states, BlockTask& task) {
  int64_t rows = 0;
  for (const auto& batch : states.batches()) {
    for (const int64_t length : batch.lengths) {
      if (rows > 0 && rows + length > kReplayTokens) break;
      task.replay_lengths.push_back(length);
      rows += length;
    }
    if (rows >= kReplayTokens / 2) break;
  }
  task.replay_states = Matrix(rows, states.hidden());
  states.read_rows(0, rows, task.replay_states.data());
}

}  // namespace metal_marlin

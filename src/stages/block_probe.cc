#include "stages/block_probe.h"

#include <algorithm>

#include "model/model.h"

namespace metal_marlin {
namespace {

constexpr int64_t kReplayTokens = 2048;

// The first sequences, as many as have no more tokens than that together, but at least one.
void take_replay(const Stream& states, BlockProbe& probe) {
  int64_t rows = 0;
  for (const int64_t length : states.lengths()) {
    if (rows > 0 && rows + length > kReplayTokens) break;
    probe.replay_lengths.push_back(length);
    rows += length;
  }
  probe.replay_states = Matrix(rows, states.hidden());
  states.read_rows(0, rows, probe.replay_states.data());
}

}  // namespace

BlockProbe take_probe(const Stream& states, bool replayed) {
  BlockProbe probe;
  probe.input = Matrix(std::min(kInvarianceTokens, states.lengths().front()), states.hidden());
  states.read_rows(0, probe.input.rows(), probe.input.data());
  if (replayed) take_replay(states, probe);
  return probe;
}

BlockProbe probe_of_tokens(const ModelSource& source) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < kInvarianceTokens; ++i) ids.push_back(static_cast<int32_t>(i % source.config().vocab_size));
  BlockProbe probe;
  embed(source, ids, probe.input);
  return probe;
}

void take_output(const Stream& states, BlockProbe& probe) {
  probe.output = Matrix(probe.input.rows(), states.hidden());
  states.read_rows(0, probe.output.rows(), probe.output.data());
}

}  // namespace metal_marlin

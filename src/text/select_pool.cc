#include "text/select_pool.h"

#include <algorithm>
#include <array>

#include "model/block.h"
#include "model/state_store.h"
#include "recipe/budget.h"
#include "recipe/recipe.h"
#include "text/selection.h"

namespace metal_marlin {
namespace {

// Input channels of a block's inputs together.
int64_t features_of_input(const ModelSource& source) {
  std::array<int64_t, kLinearInputs> features{};
  for (const LinearSlot& slot : source.linears(0)) features[static_cast<size_t>(input_of(slot.kind))] = slot.columns;
  int64_t sum = 0;
  for (const int64_t f : features) sum += f;
  return sum;
}

uint64_t state_bytes(const ModelSource& source, int64_t tokens) {
  return static_cast<uint64_t>(tokens) * static_cast<uint64_t>(source.config().hidden_size) * sizeof(float);
}

}  // namespace

int64_t profiled_blocks(const ModelSource& source) {
  return source.config().num_hidden_layers;
}

PoolSelection select_pool(const ModelSource& source, const TokenSet& pool, const std::vector<int64_t>& group,
                          const std::vector<int64_t>& quota, const MachineOptions& machine, const std::string& scratch,
                          Tracker& tracker) {
  PoolSelection out;
  out.blocks = profiled_blocks(source);
  const std::vector<int64_t> lengths = pool.lengths();
  const ModelConfig& config = source.config();
  int64_t count = 0;
  for (const int64_t q : quota) count += q;
  StateStore store(lengths, config.hidden_size, states_spill(source, machine, pool.tokens()) ? scratch : "",
                   BlockForward::kBatchTokens);
  tracker.enter("select", 0, out.blocks);
  embed_sequences(source, pool, store);
  ProfileCollector profiles(lengths, features_of_input(source), out.blocks);
  const auto hook = [&](LinearInput input, const float* x, int64_t rows, int64_t features) {
    profiles.add(input, x, rows, features);
  };
  BlockForward pass(source.family(), config, statistics_precision(machine.precision));
  for (int64_t layer = 0; layer < out.blocks; ++layer) {
    const Block block = load_block(source, layer);
    for (const auto& batch : store.batches()) {
      tracker.enter("select", layer, out.blocks);
      Matrix states = store.read(batch);
      profiles.begin_block(layer, batch.first_sequence);
      pass.run(layer, block, states, batch.lengths, hook);
      store.write(batch, states);
    }
    for (const LinearSlot& slot : source.linears(layer)) source.release(slot.weight);
  }
  Selection chosen = select_sequences(profiles.profiles(), count, group, quota);
  out.coverage = chosen.pool_coverage > 0 ? chosen.coverage / chosen.pool_coverage : 1;
  out.sequences = std::move(chosen.sequences);
  std::sort(out.sequences.begin(), out.sequences.end());
  return out;
}

uint64_t select_pool_bytes(const ModelSource& source, const MachineOptions& machine, int64_t sequences,
                           int64_t length) {
  const ModelConfig& config = source.config();
  uint64_t weights = 0;
  for (const LinearSlot& slot : source.linears(0))
    weights += static_cast<uint64_t>(slot.rows) * static_cast<uint64_t>(slot.columns);
  const uint64_t batch = state_bytes(source, std::max(BlockForward::kBatchTokens, length));
  const uint64_t states =
      states_spill(source, machine, sequences * length) ? 0 : state_bytes(source, sequences * length);
  return states + batch + weights * sizeof(float) +
         BlockForward(source.family(), config, statistics_precision(machine.precision)).scratch_bytes(length) +
         ProfileCollector::bytes(sequences, features_of_input(source), profiled_blocks(source));
}

}  // namespace metal_marlin

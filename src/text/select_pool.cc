#include "text/select_pool.h"

#include <algorithm>
#include <array>

#include "model/layer_loop.h"
#include "model/stream.h"
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
  int64_t count = 0;
  for (const int64_t q : quota) count += q;
  StreamOptions stream_options;
  stream_options.precision = statistics_precision(machine.precision);
  if (states_spill(source, machine, pool.tokens())) stream_options.scratch = scratch;
  Stream stream(source, lengths, stream_options);
  tracker.enter("select", 0, out.blocks);
  stream.embed(pool);
  ProfileCollector profiles(lengths, features_of_input(source), out.blocks);
  for_each_layer({.stage = "select", .layers = out.blocks}, tracker, [&](int64_t layer) {
    profiles.begin_block(layer, 0);
    stream.pass_source(layer, [&](LinearInput input, const float* x, int64_t rows, int64_t features) {
      if (input == LinearInput::kQkv) tracker.enter("select", layer, out.blocks);  // once for each batch
      profiles.add(input, x, rows, features);
    });
  });
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

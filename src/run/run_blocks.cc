#include "run/run_blocks.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "core/machine.h"
#include "model/layer_loop.h"
#include "run/finished_check.h"
#include "stages/block_probe.h"
#include "stages/quantize_block.h"
#include "statistics/statistics.h"

namespace metal_marlin {
namespace {

constexpr double kShareOfBlocks = 0.9;         // of all work; the rest is scoring and writing
constexpr int64_t kHeldBackGramTokens = 8192;  // of the held-back tokens, for each linear's output error

// The scratch memory of the pass is free while the block is quantized.
double pass_alone(Stream& stream, int64_t layer, const Block& block, const InputHook& hook = {}) {
  const double operations = stream.pass(layer, block, hook);
  stream.free_scratch();
  return operations;
}

struct CalibrationStats {
  StatsByInput all;
  StatsByInput validation;
  double validation_share = 0;
  double operations = 0;
};
CalibrationStats calibration_stats(const BlocksJob& job, int64_t layer, const Block& block, Stream& stream,
                                   Tracker& tracker) {
  const int64_t layers = job.source.config().num_hidden_layers;
  tracker.enter("forward", layer, layers);
  const int64_t last = guard_sequences(job.recipe, std::ssize(stream.lengths()));
  StatsCollector collector(true, job.recipe.precision, stream.lengths(), last);
  CalibrationStats out;
  out.operations =
      pass_alone(stream, layer, block, [&](LinearInput input, const float* x, int64_t rows, int64_t features) {
        tracker.enter("statistics", layer, layers);
        collector.add(input, x, rows, features);
        tracker.enter("forward", layer, layers);
      });
  out.all = collector.finish(
      [&](LinearInput input) { return fmt::format("layer {}: inputs of {}", layer, input_name(input)); });
  if (last == 0) return out;
  out.validation = collector.finish_last();
  out.validation_share =
      static_cast<double>(out.validation.front().tokens) / static_cast<double>(out.all.front().tokens);
  return out;
}

// Of the first held-back tokens, for errors alone.
StatsByInput held_back_stats(int64_t layer, const Block& block, Stream& stream) {
  StatsCollector collector;
  std::array<int64_t, kLinearInputs> seen{};
  pass_alone(stream, layer, block, [&](LinearInput input, const float* x, int64_t rows, int64_t features) {
    int64_t& n = seen[static_cast<size_t>(input)];
    const int64_t take = std::min(rows, kHeldBackGramTokens - n);
    if (take > 0) collector.add(input, x, take, features);
    n += rows;
  });
  return collector.finish();
}

// Passes the states through a block that an earlier run has finished.
void replay(const BlocksJob& job, int64_t layer, Block block, RunStreams& streams, const Journal& journal) {
  if (streams.calibration->rows() > 0) pass_alone(*streams.calibration, layer, block);
  if (!streams.evaluates()) return;
  pass_alone(*streams.reference, layer, block);
  apply_finished(job.source, layer, finished_block(job.source, job.layers, journal, layer), block);
  pass_alone(*streams.quantized, layer, block);
}

// Returns the operations of the calibration stream.
double quantize_layer(const BlocksJob& job, int64_t layer, Block block, RunStreams& streams, Journal& journal,
                      Tracker& tracker) {
  const BlockJob block_job{job.source, job.recipe, job.layers[static_cast<size_t>(layer)], layer};
  const bool calibrates = streams.calibration->rows() > 0;
  const Stream& probed = calibrates ? *streams.calibration : *streams.reference;
  const bool replayed = calibrates && job.recipe.scale_loss == ScaleLoss::kBlock;  // held-back text shapes nothing
  BlockProbe probe = probed.rows() > 0 ? take_probe(probed, replayed) : probe_of_tokens(job.source);
  MeasuredStats measured = measure_stats(job, layer, block, streams, tracker);
  // The check needs the block's output in f32. A bf16 stream does not have it; then the check runs the block itself.
  const bool in_f32 = job.recipe.precision == MatmulPrecision::kF32 || !calibrates;
  if (probed.rows() > 0 && in_f32) take_output(probed, probe);

  const BlockResult result = quantize_block(block_job, std::move(block), std::move(measured.stats), probe, tracker);

  if (streams.evaluates()) {
    block_job.enter(tracker, "evaluate");
    pass_alone(*streams.quantized, layer, result.block);
  }
  block_job.enter(tracker, "journal");
  job.source.check_unchanged();
  journal.write_block(layer, result.finished, result.record);
  return measured.operations;
}

// The first block that the states enter.
int64_t begin_states(const BlocksJob& job, int64_t finished, RunStreams& streams, const Journal& journal) {
  const auto saved = journal.states_layer();
  if (saved && *saved <= finished) {
    restore_states(*saved, journal, streams);
    return *saved;
  }
  embed_texts(job.texts, streams);
  return 0;
}

}  // namespace

FinishedBlock finished_block(const ModelSource& source, const std::vector<LayerTensors>& layers, const Journal& journal,
                             int64_t layer) {
  FinishedBlock block = journal.read_block(layer);
  check_finished(source, layer, layers[static_cast<size_t>(layer)], journal.read_block_record(layer), block,
                 journal.block_path(layer, "safetensors"));
  return block;
}

MeasuredStats measure_stats(const BlocksJob& job, int64_t layer, const Block& block, RunStreams& streams,
                            Tracker& tracker) {
  const int64_t layers = job.source.config().num_hidden_layers;
  MeasuredStats out;
  if (job.statistics != nullptr) {
    tracker.enter("read statistics", layer, layers);
    out.stats.calibration = job.statistics->load(layer);
  } else {
    CalibrationStats found = calibration_stats(job, layer, block, *streams.calibration, tracker);
    out.stats.calibration = std::move(found.all);
    out.stats.validation = std::move(found.validation);
    out.stats.validation_share = found.validation_share;
    out.operations = found.operations;
  }
  for (StatsByInput* stats : {&out.stats.validation, &out.stats.calibration}) {
    for (ActivationStats& s : *stats) weigh_first_rows(s, job.recipe.first_token_weight);
  }
  if (streams.evaluates()) {
    tracker.enter("evaluate", layer, layers);
    out.stats.held_back = held_back_stats(layer, block, *streams.reference);
  }
  return out;
}

BlocksDone run_blocks(const BlocksJob& job, RunStreams& streams, Journal& journal, Tracker& tracker) {
  const int64_t layers = job.source.config().num_hidden_layers;
  SnapshotClock clock;
  BlocksDone done;
  done.resumed = std::min(journal.finished_blocks(), layers);
  for (int64_t layer = 0; layer < done.resumed; ++layer)
    finished_block(job.source, job.layers, journal, layer);  // throws for a damaged file before the work begins
  tracker.enter("embed", 0, layers);
  const int64_t start = begin_states(job, done.resumed, streams, journal);
  if (done.resumed > 0) tracker.note(fmt::format("resuming after block {} of {}", done.resumed, layers));
  if (done.resumed == layers && !streams.evaluates()) return done;  // nothing needs the states
  const double all = static_cast<double>(std::max<int64_t>(layers - start, 1));
  const double replayed = kShareOfBlocks * static_cast<double>(done.resumed - start) / all;
  const LayerLoop finished{
      .stage = "replay", .layers = layers, .first = start, .end = done.resumed, .work_after = replayed};
  for_each_block(job.source, finished, tracker,
                 [&](int64_t layer, Block block) { replay(job, layer, std::move(block), streams, journal); });
  const LayerLoop rest{
      .stage = "load", .layers = layers, .first = done.resumed, .work_before = replayed, .work_after = kShareOfBlocks};
  for_each_block(job.source, rest, tracker, [&](int64_t layer, Block block) {
    done.forward_operations += quantize_layer(job, layer, std::move(block), streams, journal, tracker);
    if (layer + 1 == layers || !job.keep_states || !clock.due()) return;
    tracker.enter("save states", layer + 1, layers);
    const double before = wall_seconds();
    save_states(layer + 1, streams, journal);
    clock.saved(wall_seconds() - before);
  });
  return done;
}

}  // namespace metal_marlin

#include "mixed/sensitivity.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cmath>
#include <span>
#include <utility>

#include "core/counted.h"
#include "eval/divergence.h"
#include "formats/text.h"
#include "model/layer_loop.h"
#include "model/model.h"
#include "model/stream.h"
#include "options/sources.h"
#include "recipe/budget.h"
#include "stages/block_probe.h"
#include "stages/changed_tensors.h"
#include "stages/fold_block.h"
#include "stages/round_block.h"
#include "statistics/statistics.h"

namespace metal_marlin {
namespace {

// Sequences and tokens of each.
struct Size {
  int64_t sequences = 0;
  int64_t length = 0;
  int64_t statistics = 0;  // sequences
};
Size size_of(const QuantizeOptions& o, int64_t available) {
  Size s;
  s.length = std::min(kSensitivitySequence, o.calibration.sequence_length);
  s.sequences = std::clamp<int64_t>(o.sensitivity_tokens / s.length, 1, std::max<int64_t>(available, 1));
  const int64_t most = std::max<int64_t>(1, kSensitivityStatistics / o.calibration.sequence_length);
  s.statistics = std::min({most, available, std::max(available - s.sequences, (available + 1) / 2)});
  return s;
}

uint64_t state_bytes(const ModelSource& source, int64_t tokens) {
  return static_cast<uint64_t>(tokens) * static_cast<uint64_t>(source.config().hidden_size) * sizeof(float);
}

// Lanes of the stream that is measured: the original's, the one in which all linears are quantized, and one for each
// item, in which only that is.
constexpr int64_t kOriginal = 0;
constexpr int64_t kAll = 1;
constexpr int64_t kFirstItem = 2;

constexpr int64_t lane_of(size_t item) noexcept {
  return kFirstItem + static_cast<int64_t>(item);
}

struct Texts {
  TokenSet statistics;
  TokenSet measured;
};
// The first sequences for statistics, the beginnings of the last to measure on.
Texts texts_of(const TokenSet& calibration, const Size& size) {
  const auto& all = calibration.sequences;
  Texts out;
  out.statistics.sequences.assign(all.begin(), all.begin() + size.statistics);
  for (auto it = all.end() - size.sequences; it != all.end(); ++it)
    out.measured.sequences.emplace_back(it->begin(), it->begin() + std::min<int64_t>(std::ssize(*it), size.length));
  return out;
}

StatsByInput statistics_of(const BlockJob& job, const Block& block, Stream& stream) {
  StatsCollector collector(true, job.recipe.precision, stream.lengths());
  stream.pass(job.layer, block, collector.hook());
  stream.free_scratch();
  StatsByInput stats = collector.finish();
  for (ActivationStats& s : stats) weigh_first_rows(s, job.recipe.first_token_weight);
  return stats;
}

// The grids of all options of these items. The first of an item is the grid that is measured.
GridTrials trials_of(std::span<const SensitiveItem> items) {
  GridTrials trials;
  for (const SensitiveItem& item : items) {
    if (item.options.size() == 1) continue;
    for (const BitsOption& o : item.options) trials[static_cast<size_t>(item.input)].push_back({o.grid, 0});
  }
  return trials;
}

// The ratio of the squared output error to that of the recipe's grid. finish_items() turns it into a KL divergence by
// multiplying it with the measured one.
void estimate_options(SensitiveItem& item, const std::vector<GridTrial>& trials) {
  const double usual = trials.empty() ? 0 : trials.front().loss;
  for (size_t i = 0; i < item.options.size(); ++i) {
    BitsOption& o = item.options[i];
    o.kl = i == 0 ? 1 : o.grid.bits == kUnquantizedBits || !(usual > 0) ? 0 : trials[i].loss / usual;
  }
}

void swap_linears(LinearInput input, Block& a, Block& b) {
  for (const LinearKind kind : linears_of(input)) std::swap(a.linear(kind).weight, b.linear(kind).weight);
}

// A block before and after its linears are rounded, and what other grids would cost.
struct TwoBlocks {
  Block folded;
  Block rounded;
  GridTrials trials;
};
TwoBlocks quantized_twin(const BlockJob& job, Block block, GridTrials trials, Stream& statistics, Tracker& tracker) {
  const BlockProbe probe = take_probe(statistics, job.recipe.scale_loss == ScaleLoss::kBlock);
  BlockStats stats;
  stats.calibration = statistics_of(job, block, statistics);
  FoldedBlock folded = fold_block(job, std::move(block), std::move(stats), probe, tracker);
  TwoBlocks out;
  out.folded = folded.block.clone();
  RoundedBlock rounded = round_block(job, std::move(folded.block), std::move(folded.stats), std::move(trials), tracker);
  changed_tensors(job.source, job.layer, folded.folds, quantized_kinds(job.tensors), rounded.block);
  out.rounded = std::move(rounded.block);
  out.trials = std::move(rounded.trials);
  return out;
}

// Passes all lanes through a block. Items begin .. end - 1 lie in it; those before lie in earlier blocks.
void pass_lanes(int64_t layer, TwoBlocks& blocks, std::span<const SensitiveItem> items, size_t begin, size_t end,
                Stream& stream) {
  stream.pass(layer, blocks.rounded, {}, {kAll, kAll});
  for (size_t i = begin; i < end; ++i) {
    swap_linears(items[i].input, blocks.rounded, blocks.folded);
    stream.pass(layer, blocks.folded, {}, {kOriginal, lane_of(i)});
    swap_linears(items[i].input, blocks.rounded, blocks.folded);
  }
  const auto prepared = stream.prepare(blocks.folded);
  stream.pass(layer, *prepared, {}, {kOriginal, kOriginal});
  for (size_t i = 0; i < begin; ++i) stream.pass(layer, *prepared, {}, {lane_of(i), lane_of(i)});
  stream.free_scratch();
}

[[noreturn]] void refuse_logits(const ModelSource& source, std::span<const SensitiveItem> items, int64_t lane,
                                int64_t token) {
  const std::string what = lane == kAll ? std::string("all linears")
                                        : escaped(items[static_cast<size_t>(lane - kFirstItem)].names.front()) +
                                              " and the linears with its input";
  throw NumericError(
      fmt::format("{}: the logits of token {} of the calibration text are NaN or infinite, in the model itself or when "
                  "{} are quantized: a weight is damaged, or a value inside the model exceeds float32",
                  source.path(), token + 1, what));
}

// `rows`: that the divergences are means over.
void finish_items(std::span<const LaneDivergence> lanes, int64_t rows, std::vector<SensitiveItem>& items) {
  for (size_t i = 0; i < items.size(); ++i) {
    SensitiveItem& item = items[i];
    const LaneDivergence& lane = lanes[static_cast<size_t>(lane_of(i))];
    item.kl = lane.mean;
    item.kl_standard_error =
        rows > 1 ? std::sqrt(std::max(0.0, lane.mean_square - item.kl * item.kl) / static_cast<double>(rows - 1)) : 0;
    for (BitsOption& o : item.options) o.kl *= item.kl;
  }
}

}  // namespace

Sensitivity measure_sensitivity(const ModelSource& source, const QuantizeOptions& options, const Recipe& recipe,
                                const std::vector<LayerTensors>& layers, const TokenSet& calibration,
                                const std::string& scratch, Tracker& tracker) {
  const Size size = size_of(options, std::ssize(calibration.sequences));
  const Texts texts = texts_of(calibration, size);
  Sensitivity out;
  out.sequences = size.sequences;
  out.tokens = texts.measured.tokens();
  out.statistics_tokens = texts.statistics.tokens();
  out.items = sensitive_items(layers, recipe, options);
  const int64_t lanes = lane_of(out.items.size());
  const bool spill = states_spill(source, options.machine, lanes * out.tokens + out.statistics_tokens);

  StreamOptions measured;
  measured.lanes = lanes;
  measured.batch_tokens = out.tokens;  // a lane at once: each block is prepared for the products once
  measured.scratch = spill ? scratch : "";
  Stream stream(source, texts.measured.lengths(), measured);
  stream.embed(texts.measured, kOriginal);
  stream.embed(texts.measured, kAll);
  {
    StreamOptions o;
    o.precision = recipe.precision;
    o.scratch = spill ? scratch + "-statistics" : "";
    Stream statistics(source, texts.statistics.lengths(), o);
    statistics.embed(texts.statistics);
    size_t begin = 0;
    const LayerLoop loop{.stage = "sensitivity", .layers = source.config().num_hidden_layers};
    for_each_block(source, loop, tracker, [&](int64_t layer, Block block) {
      size_t end = begin;
      while (end < out.items.size() && out.items[end].layer == layer) ++end;
      const BlockJob job{source, recipe, layers[static_cast<size_t>(layer)], layer};
      const auto own = std::span(out.items).subspan(begin, end - begin);
      TwoBlocks blocks = quantized_twin(job, std::move(block), trials_of(own), statistics, tracker);
      for (SensitiveItem& item : own) estimate_options(item, blocks.trials[static_cast<size_t>(item.input)]);
      job.enter(tracker, "sensitivity");
      pass_lanes(layer, blocks, out.items, begin, end, stream);
      begin = end;
    });
  }
  const Head head(source);
  const auto refuse = [&](int64_t lane, int64_t row) { refuse_logits(source, out.items, lane, row); };
  const std::vector<LaneDivergence> divergences = lane_divergences(
      {head, stream}, lanes, refuse, [&](int64_t done, int64_t total) { tracker.enter("sensitivity", done, total); });
  out.kl_together = divergences[kAll].mean;
  finish_items(divergences, out.tokens, out.items);
  return out;
}

std::string sensitivity_warning(const QuantizeOptions& options, int64_t available) {
  const Size size = size_of(options, available);
  if (size.statistics + size.sequences <= available) return "";
  const int64_t wanted = std::max<int64_t>(1, options.sensitivity_tokens / size.length);
  return fmt::format(
      "sensitivity: of {} calibration sequences {} are measured on and {} are what statistics are of, so that some are "
      "both: expect larger "
      "divergences than it says; give at least {}, or fewer --sensitivity-tokens",
      available, size.sequences, size.statistics, counted(2 * wanted, "sequence"));
}

uint64_t sensitivity_bytes(const ModelSource& source, const QuantizeOptions& options, uint64_t block_bytes) {
  const Size size = size_of(options, samples_of(options));
  const int64_t streams = source.config().num_hidden_layers * kLinearInputs + 2;
  const int64_t tokens = streams * size.sequences * size.length + size.statistics * options.calibration.sequence_length;
  const uint64_t held = states_spill(source, options.machine, tokens) ? 0 : state_bytes(source, tokens);
  const uint64_t probabilities =
      static_cast<uint64_t>(kDivergenceRows) * static_cast<uint64_t>(source.config().vocab_size) * (8 + 8 + 4 + 4);
  return held + std::max(block_bytes, probabilities) + 4 * state_bytes(source, size.sequences * size.length);
}

}  // namespace metal_marlin

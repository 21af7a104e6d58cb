#include "stages/fold_block.h"

#include <algorithm>
#include <span>
#include <utility>

#include "core/machine.h"
#include "quantize/group_range.h"
#include "quantize/rounding/rtn.h"
#include "scale/fold.h"
#include "scale/search.h"
#include "stages/linear_stages.h"

namespace metal_marlin {
namespace {

// The grid of a linear that is quantized.
Grid grid_of(const LayerTensors& tensors, LinearKind kind) {
  for (const QuantizedWeight& w : tensors.quantized) {
    for (const LinearSlot& slot : w.slots) {
      if (slot.kind == kind) return w.grid;
    }
  }
  return {};
}

// The producer is written anew as well: in codes, or as a changed tensor.
bool can_fold(const Fold& fold, const std::set<LinearKind>& quantized) {
  if (fold.producer == FoldProducer::kNone) return false;
  const std::vector<LinearKind> kinds = linears_of(fold.input);
  return std::all_of(kinds.begin(), kinds.end(), [&](LinearKind kind) { return quantized.count(kind) > 0; });
}

// What took the scale: "model.layers.0.input_layernorm" or "model.layers.0.self_attn.v_proj".
std::string producer_module(const Family& family, int64_t layer, const Fold& fold) {
  const std::string prefix = family.layer_prefix + std::to_string(layer) + ".";
  switch (fold.producer) {
    case FoldProducer::kInputNorm:
      return prefix + family.norms[static_cast<size_t>(NormKind::kInput)];
    case FoldProducer::kPreFeedForwardNorm:
      return prefix + family.norms[static_cast<size_t>(NormKind::kPreFeedForward)];
    case FoldProducer::kVRows:
      return prefix + family.linears[static_cast<size_t>(LinearKind::kV)];
    case FoldProducer::kUpRows:
      return prefix + family.linears[static_cast<size_t>(LinearKind::kUp)];
    case FoldProducer::kNone:
      break;
  }
  return "";
}

Matrix replay(const BlockJob& job, const Block& block, const BlockProbe& probe) {
  Matrix states = probe.replay_states.clone();
  BlockForward(job.source.family(), job.source.config()).run(job.layer, block, states, probe.replay_lengths);
  return states;
}

// Mean squared error of the block's output when the input's linears are rounded with `scale`, as AutoAWQ searches.
double block_loss(const BlockJob& job, LinearInput input, std::span<const float> scale,
                  const ScaleSearchOptions& options, const BlockProbe& probe, const Matrix& expected, Block& block) {
  std::vector<std::pair<LinearKind, Matrix>> saved;
  for (const LinearKind kind : linears_of(input)) {
    Matrix& weight = block.linear(kind).weight;
    Matrix scaled = weight.clone();
    for (int64_t r = 0; r < scaled.rows(); ++r) {
      for (int64_t c = 0; c < scaled.cols(); ++c) scaled(r, c) *= scale[static_cast<size_t>(c)];
    }
    const GroupRanges ranges = group_ranges(scaled, options.grid, options.range);
    Matrix rounded = dequantize(quantize_rtn(scaled, ranges, options.grid));
    for (int64_t r = 0; r < rounded.rows(); ++r) {
      for (int64_t c = 0; c < rounded.cols(); ++c) rounded(r, c) /= scale[static_cast<size_t>(c)];
    }
    saved.emplace_back(kind, std::move(weight));
    weight = std::move(rounded);
  }
  const Matrix actual = replay(job, block, probe);
  for (auto& [kind, weight] : saved) block.linear(kind).weight = std::move(weight);
  double sum = 0;
  for (int64_t i = 0; i < expected.size(); ++i) {
    const double d = static_cast<double>(actual.data()[i]) - expected.data()[i];
    sum += d * d;
  }
  return sum / static_cast<double>(expected.size());
}

ScaleRecord scale_record(const BlockJob& job, const Fold& fold, const InputScale& scale) {
  const auto [least, largest] = std::minmax_element(scale.scale.begin(), scale.scale.end());
  ScaleRecord record;
  record.layer = job.layer;
  record.tap = input_name(fold.input);
  record.fold = fold.name;
  record.ratio = scale.ratio;
  record.loss = scale.loss_before > 0 ? scale.loss_after / scale.loss_before : 1;
  record.producer = producer_module(job.source.family(), job.layer, fold);
  record.least = *least;
  record.largest = *largest;
  return record;
}

double check_folds(const BlockJob& job, const FoldedBlock& folded, const BlockProbe& probe) {
  const Family& family = job.source.family();
  const ModelConfig& config = job.source.config();
  const auto reload = [&] { return load_block(job.source, job.layer); };
  Matrix computed;
  if (probe.output.empty()) computed = run_block_once(family, config, job.layer, reload(), probe.input);
  return check_invariance(family, config, job.layer, folded.block, folded.plan, probe.input,
                          probe.output.empty() ? computed : probe.output, reload);
}

}  // namespace

std::vector<LinearKind> linears_of(LinearInput input) {
  std::vector<LinearKind> kinds;
  for (int k = 0; k < kLinears; ++k) {
    const auto kind = static_cast<LinearKind>(k);
    if (input_of(kind) == input) kinds.push_back(kind);
  }
  return kinds;
}

std::set<LinearKind> quantized_kinds(const LayerTensors& tensors) {
  std::set<LinearKind> kinds;
  for (const QuantizedWeight& w : tensors.quantized) {
    for (const LinearSlot& slot : w.slots) kinds.insert(slot.kind);
  }
  return kinds;
}

InputScale find_scale(const BlockJob& job, const Fold& fold, Block& block, const ActivationStats& stats,
                      const BlockProbe& probe) {
  const std::vector<LinearKind> kinds = linears_of(fold.input);
  const ModelConfig& config = job.source.config();
  std::vector<const Matrix*> weights;
  for (const LinearKind kind : kinds) weights.push_back(&block.linear(kind).weight);
  ScaleSearchOptions options = scale_search_options(job.recipe, grid_of(job.tensors, kinds.front()));
  if (fold.producer == FoldProducer::kVRows && config.num_attention_heads != config.num_key_value_heads) {
    options.heads = {config.num_attention_heads, config.num_key_value_heads, config.head_dim};
  }
  Matrix expected;
  if (job.recipe.scale_loss == ScaleLoss::kBlock && probe.replay_states.rows() > 0) {
    expected = replay(job, block, probe);
    options.loss = [&](std::span<const float> scale) {
      return block_loss(job, fold.input, scale, options, probe, expected, block);
    };
  }
  InputScale scale = search_input_scale(job.recipe, fold.input, weights, stats, options);
  scale.fold = fold.name;
  return scale;
}

FoldedBlock fold_block(const BlockJob& job, Block block, BlockStats stats, const BlockProbe& probe, Tracker& tracker) {
  FoldedBlock out;
  out.block = std::move(block);
  out.stats = std::move(stats);
  if (job.recipe.scales == ScaleMethod::kNone) return out;
  const std::set<LinearKind> quantized = quantized_kinds(job.tensors);
  for (const Fold& fold : job.source.family().folds) {
    if (!can_fold(fold, quantized)) continue;
    job.enter(tracker, "search scales");
    const double start = wall_seconds();
    const auto input = static_cast<size_t>(fold.input);
    InputScale scale = find_scale(job, fold, out.block, out.stats.calibration[input], probe);
    apply_fold(job.source.family(), job.source.config(), fold, scale.scale, out.block);
    for (StatsByInput* s : {&out.stats.calibration, &out.stats.held_back, &out.stats.validation})
      fold_statistics((*s)[input], scale.scale);
    out.scales.push_back(scale_record(job, fold, scale));
    out.scales.back().seconds = wall_seconds() - start;
    out.folds.push_back(fold);
    out.plan.inputs.push_back(std::move(scale));
  }
  if (out.plan.inputs.empty()) return out;
  job.enter(tracker, "check folds");
  out.invariance_error = check_folds(job, out, probe);
  return out;
}

}  // namespace metal_marlin

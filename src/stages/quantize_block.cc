#include "stages/quantize_block.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <numeric>
#include <optional>
#include <set>

#include "core/enum_names.h"
#include "core/half.h"
#include "core/machine.h"
#include "quantize/errors.h"
#include "quantize/gptq.h"
#include "quantize/group_range.h"
#include "quantize/refine.h"
#include "quantize/rtn.h"
#include "scale/fold.h"
#include "scale/search.h"
#include "stages/linear_stages.h"
#include "stages/rounding_choice.h"
#include "stages/unfold.h"

namespace metal_marlin {
namespace {

class BlockQuantizer {
 public:
  BlockQuantizer(BlockTask& task, Block& block, Tracker& tracker)
      : task_(task), block_(block), tracker_(tracker), family_(task.source->family()), config_(task.source->config()) {
    for (const QuantizedWeight& w : task.tensors->quantized) {
      for (const LinearSlot& slot : w.slots) grids_[slot.kind] = w.grid;
    }
  }

  BlockResult run() {
    if (task_.recipe->scales != ScaleMethod::kNone) find_scales();
    check_fold();
    if (task_.folded != nullptr) *task_.folded = block_.clone();
    for (const QuantizedWeight& w : task_.tensors->quantized) quantize_weight(w);
    collect_changed();
    measure_weights();
    return std::move(result_);
  }

 private:
  ActivationStats& stats(LinearInput input) { return (*task_.stats)[static_cast<size_t>(input)]; }
  ActivationStats* held_back(LinearInput input) {
    if (task_.held_back == nullptr || (*task_.held_back)[static_cast<size_t>(input)].in_features == 0) return nullptr;
    return &(*task_.held_back)[static_cast<size_t>(input)];
  }
  std::vector<LinearKind> consumers(LinearInput input) const {
    std::vector<LinearKind> out;
    for (int k = 0; k < kLinears; ++k) {
      if (input_of(static_cast<LinearKind>(k)) == input) out.push_back(static_cast<LinearKind>(k));
    }
    return out;
  }

  // A fold changes every consumer, which must be written anew. The producer is: in 4 bits, or as a changed tensor.
  bool can_fold(const Fold& fold) const {
    for (const LinearKind kind : consumers(fold.input)) {
      if (grids_.count(kind) == 0) return false;
    }
    return fold.producer != FoldProducer::kNone;
  }

  void find_scales() {
    for (const Fold& fold : family_.folds) {
      if (!can_fold(fold)) continue;
      tracker_.enter("search scales", task_.layer, config_.num_hidden_layers);
      const double start = wall_seconds();
      InputScale scale = search(fold);
      scale.fold = fold.name;
      const double gain = scale.loss_before > 0 ? scale.loss_after / scale.loss_before : 1;
      ScaleRecord record;
      record.layer = task_.layer;
      record.tap = input_name(fold.input);
      record.fold = fold.name;
      record.ratio = scale.ratio;
      record.loss = gain;
      record.producer = producer_module(fold);
      apply_fold(family_, config_, fold, scale.scale, block_);
      const auto [least, largest] = std::minmax_element(scale.scale.begin(), scale.scale.end());
      record.least = *least;
      record.largest = *largest;
      fold_statistics(stats(fold.input), scale.scale);
      if (ActivationStats* held = held_back(fold.input)) fold_statistics(*held, scale.scale);
      if (task_.guard != nullptr) fold_statistics((*task_.guard)[static_cast<size_t>(fold.input)], scale.scale);
      record.seconds = wall_seconds() - start;
      result_.record.scales.push_back(std::move(record));
      folded_.push_back(fold);
      plan_.inputs.push_back(std::move(scale));
    }
  }

  InputScale search(const Fold& fold) {
    std::vector<const Matrix*> weights;
    for (const LinearKind kind : consumers(fold.input)) weights.push_back(&block_.linear(kind).weight);
    ScaleSearchOptions options = scale_search_options(*task_.recipe, grids_.at(consumers(fold.input).front()));
    if (fold.producer == FoldProducer::kVRows && config_.num_attention_heads != config_.num_key_value_heads) {
      options.heads = {config_.num_attention_heads, config_.num_key_value_heads, config_.head_dim};
    }
    Matrix expected;
    if (task_.recipe->scale_loss == ScaleLoss::kBlock && task_.replay_states.rows() > 0) {
      expected = replay();
      options.loss = [&](std::span<const float> scale) { return block_loss(fold, scale, expected, options); };
    }
    return search_input_scale(*task_.recipe, fold.input, weights, stats(fold.input), options);
  }

  Matrix replay() const {
    Matrix states = task_.replay_states.clone();
    BlockForward(family_, config_).run(task_.layer, block_, states, task_.replay_lengths);
    return states;
  }

  // Mean squared error of the block's output when the input's linears are rounded with `scale`, as AutoAWQ searches.
  double block_loss(const Fold& fold, std::span<const float> scale, const Matrix& expected,
                    const ScaleSearchOptions& options) {
    std::vector<std::pair<LinearKind, Matrix>> saved;
    for (const LinearKind kind : consumers(fold.input)) {
      Matrix& weight = block_.linear(kind).weight;
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
    const Matrix actual = replay();
    for (auto& [kind, weight] : saved) block_.linear(kind).weight = std::move(weight);
    double sum = 0;
    for (int64_t i = 0; i < expected.size(); ++i) {
      const double d = static_cast<double>(actual.data()[i]) - expected.data()[i];
      sum += d * d;
    }
    return sum / static_cast<double>(expected.size());
  }

  // "model.layers.0.input_layernorm" or "model.layers.0.self_attn.v_proj": what took the scale.
  std::string producer_module(const Fold& fold) const {
    const std::string layer = family_.layer_prefix + std::to_string(task_.layer) + ".";
    switch (fold.producer) {
      case FoldProducer::kInputNorm:
        return layer + family_.norms[static_cast<size_t>(NormKind::kInput)];
      case FoldProducer::kPreFeedForwardNorm:
        return layer + family_.norms[static_cast<size_t>(NormKind::kPreFeedForward)];
      case FoldProducer::kVRows:
        return layer + family_.linears[static_cast<size_t>(LinearKind::kV)];
      case FoldProducer::kUpRows:
        return layer + family_.linears[static_cast<size_t>(LinearKind::kUp)];
      case FoldProducer::kNone:
        break;
    }
    return "";
  }

  void check_fold() {
    if (plan_.inputs.empty()) return;
    tracker_.enter("check folds", task_.layer, config_.num_hidden_layers);
    const auto reload = [&] { return load_block(*task_.source, task_.layer); };
    if (task_.invariance_output.empty()) {
      task_.invariance_output = run_block_once(family_, config_, task_.layer, reload(), task_.invariance_input);
    }
    result_.record.invariance_error = check_invariance(family_, config_, task_.layer, block_, plan_,
                                                       task_.invariance_input, task_.invariance_output, reload);
  }

  GroupRanges ranges_of(const Matrix& weight, const Matrix& gram, LinearKind kind, const Grid& grid,
                        LinearRecord& record) const {
    // The published clip search leaves q and k alone: their product is too sensitive.
    const bool may_clip = kind != LinearKind::kQ && kind != LinearKind::kK;
    return choose_ranges(*task_.recipe, weight, gram, grid, may_clip, record);
  }

  // For all linears of the input at once, before the first of them is rounded: they share the factors.
  void choose_rounding_of(LinearInput input) {
    tracker_.enter("choose rounding", task_.layer, config_.num_hidden_layers);
    ActivationStats& guard = (*task_.guard)[static_cast<size_t>(input)];
    std::vector<LinearKind> kinds;
    std::vector<const Matrix*> weights;
    RoundingTrial trial = rounding_trial(*task_.recipe);
    for (const LinearKind kind : consumers(input)) {
      const auto grid = grids_.find(kind);
      if (grid == grids_.end()) continue;
      kinds.push_back(kind);
      weights.push_back(&block_.linear(kind).weight);
      trial.grids.push_back(grid->second);
    }
    trial.ranges = [&](const Matrix& rows, const Matrix& gram, size_t i) {
      LinearRecord unused;
      return ranges_of(rows, gram, kinds[i], trial.grids[i], unused);
    };
    const std::vector<RoundingChoice> found =
        choose_rounding(weights, stats(input).gram, guard.gram, task_.guard_share, trial);
    for (size_t i = 0; i < kinds.size(); ++i) choices_[kinds[i]] = found[i];
    guard.gram = Matrix();
    tracker_.enter("round", task_.layer, config_.num_hidden_layers);
  }

  // Before the first linear of the input is rounded: they share the factor.
  void try_grids(LinearInput input) {
    tracker_.enter("sensitivity", task_.layer, config_.num_hidden_layers);
    const Matrix& gram = stats(input).gram;
    std::vector<const Matrix*> weights;
    for (const LinearKind kind : consumers(input)) {
      if (grids_.count(kind) > 0) weights.push_back(&block_.linear(kind).weight);
    }
    const Matrix sample = sample_rows(weights, kTrialRows);
    LinearRecord unused;
    for (GridTrial& trial : (*task_.trials)[static_cast<size_t>(input)]) {
      if (trial.grid.bits == kUnquantizedBits) continue;
      const GroupRanges ranges = ranges_of(sample, gram, consumers(input).back(), trial.grid, unused);
      QuantizedTensor q = round_sample(sample, input, ranges, trial.grid);
      const double error = linear_errors(sample, q, &gram).output_error;
      trial.loss = error * error;
    }
    tracker_.enter("round", task_.layer, config_.num_hidden_layers);
  }

  QuantizedTensor round_sample(const Matrix& sample, LinearInput input, const GroupRanges& ranges, const Grid& grid) {
    const Recipe& recipe = *task_.recipe;
    QuantizedTensor q = recipe.rounding == Rounding::kGptq
                            ? quantize_gptq(sample, factor(input, recipe.damping), ranges, grid)
                            : quantize_rtn(sample, ranges, grid);
    if (recipe.refine) {
      RefineOptions options;
      options.damping = recipe.damping;
      refine(sample, stats(input).gram, q, options);
    }
    return q;
  }

  QuantizedTensor round_linear(const LinearSlot& slot, const Grid& grid, LinearRecord& record) {
    const Recipe& recipe = *task_.recipe;
    const LinearInput input = input_of(slot.kind);
    if (task_.trials != nullptr && tried_.insert(input).second) try_grids(input);
    if (task_.guard != nullptr && choices_.count(slot.kind) == 0) choose_rounding_of(input);
    RoundingChoice choice = choice_of(recipe);
    if (const auto it = choices_.find(slot.kind); it != choices_.end()) {
      choice = it->second;
      record.chosen = {.rounding = rounding_name(choice),
                       .damping = choice.damping,
                       .nearest = choice.nearest_error,
                       .feedback = choice.feedback_error,
                       .refined = choice.refined_error};
    }
    const Matrix& weight = block_.linear(slot.kind).weight;
    const Matrix& gram = stats(input).gram;
    const GroupRanges ranges = ranges_of(weight, gram, slot.kind, grid, record);
    const GptqFactor* f = choice.feedback ? &factor(input, choice.damping) : nullptr;
    return round_linear_as(choice, weight, gram, ranges, grid, f, record);
  }

  const GptqFactor& factor(LinearInput input, double damping) {
    if (!factor_ || factor_input_ != input) {
      factor_.reset();
      GptqOptions options = gptq_options(*task_.recipe);
      options.damping = damping;  // one for all linears of an input
      factor_ = make_gptq_factor(stats(input).gram, options);
      factor_input_ = input;
    }
    return *factor_;
  }

  void quantize_weight(const QuantizedWeight& w) {
    tracker_.enter("round", task_.layer, config_.num_hidden_layers);
    QuantizedTensor joined;
    for (const LinearSlot& slot : w.slots) {
      const double start = wall_seconds();
      const LinearInput input = input_of(slot.kind);
      LinearRecord record;
      record.name = w.slots.size() == 1 ? w.name : fmt::format("{}[{}]", w.name, linear_kind_name(slot.kind));
      record.shape = {slot.rows, slot.columns};
      record.method = name_of(task_.recipe->method);
      QuantizedTensor q = round_linear(slot, w.grid, record);
      record.bits = q.bits;
      record.group_size = q.group_size;
      Matrix& weight = block_.linear(slot.kind).weight;
      tracker_.enter("measure", task_.layer, config_.num_hidden_layers);
      const Matrix& gram = stats(input).gram;
      const LinearErrors errors = linear_errors(weight, q, gram.empty() ? nullptr : &gram);
      record.weight_error = errors.weight_error;  // of the scaled weights; measure_weights() replaces it
      if (!gram.empty()) record.output_error = errors.output_error;
      if (const ActivationStats* held = held_back(input))
        record.held_back_output_error = linear_errors(weight, q, &held->gram).output_error;
      record.scale_range = {errors.least_scale, errors.largest_scale};
      record.clipped_share = errors.clipped_share;
      record.saturated_share = errors.saturated_share;
      tracker_.enter("round", task_.layer, config_.num_hidden_layers);
      weight = dequantize(q);
      append(joined, q);
      record.seconds = wall_seconds() - start;
      records_[slot.kind] = result_.record.linears.size();
      result_.record.linears.push_back(std::move(record));
    }
    result_.finished.quantized.emplace(w.name, std::move(joined));
  }

  // The report's weight errors: of the weights that the checkpoint stands for, without the scales that were folded into
  // neighbours, as `compare` finds them. One linear of the source at a time.
  void measure_weights() {
    Unfolding unfolding(family_, config_);
    for (const LinearSlot& slot : task_.source->linears(task_.layer)) {
      Matrix source = task_.source->load(slot.weight, slot.first_row, slot.rows);
      const Matrix& weight = block_.linear(slot.kind).weight;
      Matrix result(weight.rows(), weight.cols());
      std::copy_n(weight.data(), weight.size(), result.data());
      Matrix norm_a;
      std::span<const float> norm_b;
      if (NormKind norm{}; Unfolding::norm_before(slot.kind, norm) && !block_.norm(norm).empty()) {
        norm_a = task_.source->load(task_.source->norm_name(task_.layer, norm));
        norm_b = block_.norm(norm);
      }
      unfolding.undo(slot.kind, norm_a.values(), norm_b, source, result);
      const auto record = records_.find(slot.kind);
      if (record == records_.end()) continue;
      result_.record.linears[record->second].weight_error =
          difference_of(slot.weight, source, result, task_.source->path(), "the result").relative();
    }
  }

  static void append(QuantizedTensor& all, QuantizedTensor& part) {
    if (all.out_features == 0) {
      all = std::move(part);
      return;
    }
    all.out_features += part.out_features;
    all.codes.insert(all.codes.end(), part.codes.begin(), part.codes.end());
    all.scales.insert(all.scales.end(), part.scales.begin(), part.scales.end());
    all.zeros.insert(all.zeros.end(), part.zeros.begin(), part.zeros.end());
    all.minima.insert(all.minima.end(), part.minima.begin(), part.minima.end());
  }

  void add_changed(const std::string& name, std::span<float> values, std::vector<int64_t> shape) {
    OwnedTensor t;
    t.name = name;
    t.dtype = DType::kF16;
    t.shape = std::move(shape);
    t.bytes = Buffer(values.size() * 2);
    auto* bits = reinterpret_cast<uint16_t*>(t.bytes.data());
    for (size_t i = 0; i < values.size(); ++i) {
      if (!f16_fits(values[i]))
        throw NumericError(fmt::format("{}: {} after folding exceeds the range of f16", name, values[i]));
      bits[i] = f32_to_f16(values[i]);
      values[i] = f16_to_f32(bits[i]);
    }
    count_lost(name, values);
    result_.record.changed.push_back(name);
    result_.finished.changed.push_back(std::move(t));
  }

  // Counts what is not 0 in the source and 0 in the written tensor. A norm that is stored less 1 may be 0 by right.
  void count_lost(const std::string& name, std::span<const float> written) {
    if (task_.source->family().offset_norm && name.find("norm") != std::string::npos) return;
    const Matrix before = task_.source->load(name);
    if (before.values().size() != written.size()) return;
    int64_t lost = 0;
    for (size_t i = 0; i < written.size(); ++i) lost += written[i] == 0 && before.values()[i] != 0 ? 1 : 0;
    if (lost > 0) result_.record.flushed.push_back({name, lost, std::ssize(written)});
  }

  void collect_changed() {
    for (const Fold& fold : folded_) {
      if (fold.producer == FoldProducer::kInputNorm) {
        add_changed_norm(NormKind::kInput);
      } else if (fold.producer == FoldProducer::kPreFeedForwardNorm) {
        add_changed_norm(NormKind::kPreFeedForward);
      } else {
        add_changed_producer(fold.producer == FoldProducer::kVRows ? LinearKind::kV : LinearKind::kUp);
      }
    }
  }

  void add_changed_norm(NormKind kind) {
    std::vector<float>& norm = block_.norm(kind);
    add_changed(task_.source->norm_name(task_.layer, kind), norm, {std::ssize(norm)});
  }

  // v or up: its bias and, where it stays in 16 bits, its weight, with those that share a tensor where the family fuses
  // them.
  void add_changed_producer(LinearKind kind) {
    const std::vector<LinearSlot> all = task_.source->linears(task_.layer);
    const auto own = std::find_if(all.begin(), all.end(), [&](const LinearSlot& s) { return s.kind == kind; });
    std::vector<LinearSlot> slots;
    std::copy_if(all.begin(), all.end(), std::back_inserter(slots),
                 [&](const LinearSlot& s) { return s.weight == own->weight; });
    if (grids_.count(kind) == 0) {
      const auto values = [&](LinearKind k) {
        Matrix& weight = block_.linear(k).weight;
        return std::span<float>(weight.data(), static_cast<size_t>(weight.size()));
      };
      const int64_t rows = std::accumulate(slots.begin(), slots.end(), int64_t{0},
                                           [](int64_t sum, const LinearSlot& s) { return sum + s.rows; });
      add_changed_together(own->weight, slots, values, {rows, own->columns});
    }
    if (own->has_bias) {
      const auto values = [&](LinearKind k) { return std::span<float>(block_.linear(k).bias); };
      add_changed_together(bias_name(own->weight), slots, values, {});
    }
  }

  // Empty shape: as many as there are.
  template <typename Values>
  void add_changed_together(const std::string& name, const std::vector<LinearSlot>& slots, const Values& values,
                            std::vector<int64_t> shape) {
    std::vector<float> joined;
    for (const LinearSlot& slot : slots) {
      const std::span<float> part = values(slot.kind);
      joined.insert(joined.end(), part.begin(), part.end());
    }
    if (shape.empty()) shape = {std::ssize(joined)};
    add_changed(name, joined, std::move(shape));
    auto at = joined.begin();
    for (const LinearSlot& slot : slots) {
      const std::span<float> part = values(slot.kind);
      std::copy_n(at, part.size(), part.begin());
      at += std::ssize(part);
    }
  }

  BlockTask& task_;
  Block& block_;
  Tracker& tracker_;
  const Family& family_;
  const ModelConfig& config_;
  std::map<LinearKind, Grid> grids_;  // of the linears that are quantized
  std::vector<Fold> folded_;
  ScalePlan plan_;
  std::map<LinearKind, RoundingChoice> choices_;
  std::map<LinearKind, size_t> records_;  // place of each linear in the record's linears
  std::set<LinearInput> tried_;
  std::optional<GptqFactor> factor_;
  LinearInput factor_input_ = LinearInput::kQkv;
  BlockResult result_;
};

}  // namespace

std::string bias_name(const std::string& weight) {
  return weight.substr(0, weight.size() - std::strlen("weight")) + "bias";
}

BlockResult quantize_block(BlockTask& task, Block& block, Tracker& tracker) {
  return BlockQuantizer(task, block, tracker).run();
}

void apply_finished(const ModelSource& source, int64_t layer, const FinishedBlock& finished, Block& block) {
  const auto slots = source.linears(layer);
  for (const LinearSlot& slot : slots) {
    const auto it = finished.quantized.find(slot.weight);
    if (it == finished.quantized.end()) continue;
    Matrix& weight = block.linear(slot.kind).weight;
    dequantize_rows(it->second, slot.first_row, slot.rows, weight.data());
  }
  for (const OwnedTensor& t : finished.changed) {
    const auto* bits = reinterpret_cast<const uint16_t*>(t.bytes.data());
    const auto fill = [&](std::span<float> values, int64_t first) {
      for (size_t i = 0; i < values.size(); ++i) values[i] = f16_to_f32(bits[static_cast<size_t>(first) + i]);
    };
    for (int k = 0; k < kNorms; ++k) {
      const auto kind = static_cast<NormKind>(k);
      if (!block.norm(kind).empty() && source.norm_name(layer, kind) == t.name) fill(block.norm(kind), 0);
    }
    for (const LinearSlot& slot : slots) {
      Matrix& weight = block.linear(slot.kind).weight;
      if (slot.weight == t.name)
        fill({weight.data(), static_cast<size_t>(weight.size())}, slot.first_row * slot.columns);
      if (slot.has_bias && bias_name(slot.weight) == t.name) fill(block.linear(slot.kind).bias, slot.first_row);
    }
  }
}

}  // namespace metal_marlin

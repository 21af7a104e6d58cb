#include "stages/round_block.h"

#include <fmt/format.h>

#include <utility>

#include "core/enum_names.h"
#include "core/machine.h"
#include "quantize/append_rows.h"
#include "quantize/blocks/blocks.h"
#include "quantize/errors.h"
#include "recipe/tensor_plan.h"
#include "stages/linear_stages.h"

namespace metal_marlin {
namespace {

GroupRanges ranges_of(const Recipe& recipe, LinearKind kind, const Matrix& weight, const Matrix& gram, const Grid& grid,
                      LinearRecord& record) {
  // The published clip search leaves q and k alone: their product is too sensitive.
  const bool may_clip = kind != LinearKind::kQ && kind != LinearKind::kK;
  return choose_ranges(recipe, weight, gram, grid, may_clip, record);
}

// The grids of the quantized linears of an input.
std::vector<std::pair<LinearKind, Grid>> quantized_of(const LayerTensors& tensors, LinearInput input) {
  std::map<LinearKind, Grid> grids;
  for (const QuantizedWeight& w : tensors.quantized) {
    for (const LinearSlot& slot : w.slots) {
      if (input_of(slot.kind) == input) grids[slot.kind] = w.grid;
    }
  }
  return {grids.begin(), grids.end()};
}

void append(BlockTensor& all, BlockTensor part) {
  if (all.out_features == 0) {
    all = std::move(part);
    return;
  }
  all.out_features += part.out_features;
  all.bytes.insert(all.bytes.end(), part.bytes.begin(), part.bytes.end());
}

// No more output errors than those of the weights themselves: for statistics without a Gram matrix.
Matrix identity(int64_t n) {
  Matrix out(n, n);
  for (int64_t i = 0; i < n; ++i) out(i, i) = 1;
  return out;
}

BlockTensor round_to_blocks(const RoundingOptions& rounding, const Matrix& weight, const Matrix& gram, GgmlType type,
                            const GptqFactor* factor) {
  BlockRounding options;
  options.feedback = rounding.feedback;
  options.gptq = rounding.gptq;
  if (!rounding.refine) options.passes = 0;
  if (gram.empty()) return quantize_to_blocks(weight, identity(weight.cols()), type, options, factor);
  return quantize_to_blocks(weight, gram, type, options, factor);
}

// What is known of an input before its first linear is rounded.
struct RoundingOfInput {
  LinearInput input;
  InputFactor factor;
  std::map<LinearKind, RoundingChoice> choices;  // empty: as the recipe says

  std::optional<RoundingChoice> choice_of_linear(LinearKind kind) const {
    const auto it = choices.find(kind);
    return it == choices.end() ? std::nullopt : std::optional(it->second);
  }
};

RoundingOfInput begin_input(const BlockJob& job, LinearInput input, const Block& block, BlockStats& stats,
                            std::vector<GridTrial>& trials, Tracker& tracker) {
  const auto i = static_cast<size_t>(input);
  RoundingOfInput out{input, InputFactor(job.recipe, stats.calibration[i].gram), {}};
  if (!trials.empty()) {
    job.enter(tracker, "sensitivity");
    trials = try_grids(job, input, block, stats.calibration[i], std::move(trials), out.factor);
    job.enter(tracker, "round");
  }
  if (stats.validation_share > 0) {
    job.enter(tracker, "choose rounding");
    out.choices = choose_rounding_of(job, input, block, stats.calibration[i], std::move(stats.validation[i].gram),
                                     stats.validation_share);
    job.enter(tracker, "round");
  }
  return out;
}

}  // namespace

const GptqFactor& InputFactor::at(double damping) {
  if (!factor_ || damping_ != damping) {
    factor_.reset();
    GptqOptions options = recipe_.rounding.gptq;
    options.damping = damping;
    factor_ = make_gptq_factor(gram_, options);
    damping_ = damping;
  }
  return *factor_;
}

const GptqFactor* InputFactor::of(const RoundingOptions& rounding) {
  return rounding.feedback ? &at(rounding.gptq.damping) : nullptr;
}

RoundedLinear round_linear(const Recipe& recipe, LinearKind kind, const Matrix& weight, const Grid& grid,
                           const ActivationStats& stats, const std::optional<RoundingChoice>& chosen,
                           InputFactor& factor) {
  RoundedLinear out;
  LinearRecord& record = out.record;
  record.method = name_of(recipe.method);
  const RoundingOptions& rounding = chosen ? chosen->rounding : recipe.rounding;
  if (chosen) {
    record.chosen = {.rounding = rounding_name(rounding),
                     .damping = rounding.gptq.damping,
                     .nearest = chosen->nearest_error,
                     .feedback = chosen->feedback_error,
                     .refined = chosen->refined_error};
  }
  if (grid.block) {
    const GptqFactor* used = factor.of(rounding);
    if (used != nullptr) record.damping = used->damping;
    out.blocks = round_to_blocks(rounding, weight, stats.gram, *grid.block, used);
    record.type = std::string(ggml_type_info(*grid.block).name);
    record.bits = grid.bits;
    record.group_size = grid.group_size;
    return out;
  }
  const GroupRanges ranges = ranges_of(recipe, kind, weight, stats.gram, grid, record);
  out.tensor = round_linear_as(rounding, weight, stats.gram, ranges, grid, factor.of(rounding), record);
  record.bits = out.tensor.bits;
  record.group_size = out.tensor.group_size;
  return out;
}

void add_errors(const Matrix& weight, const QuantizedTensor& tensor, const ActivationStats& stats,
                const ActivationStats& held_back, LinearRecord& record) {
  const Matrix& gram = stats.gram;
  const LinearErrors errors = linear_errors(weight, tensor, gram.empty() ? nullptr : &gram);
  record.weight_error = errors.weight_error;
  if (!gram.empty()) record.output_error = errors.output_error;
  if (held_back.in_features > 0)
    record.held_back_output_error = linear_errors(weight, tensor, &held_back.gram).output_error;
  record.scale_range = {errors.least_scale, errors.largest_scale};
  record.clipped_share = errors.clipped_share;
  record.saturated_share = errors.saturated_share;
}

void add_errors(const Matrix& weight, const BlockTensor& blocks, const ActivationStats& stats,
                const ActivationStats& held_back, LinearRecord& record) {
  const Matrix values = dequantize(blocks);
  const Matrix& gram = stats.gram;
  const ValueErrors errors = value_errors(weight, values, gram.empty() ? nullptr : &gram);
  record.weight_error = errors.weight_error;
  if (!gram.empty()) record.output_error = errors.output_error;
  if (held_back.in_features > 0)
    record.held_back_output_error = value_errors(weight, values, &held_back.gram).output_error;
}

std::map<LinearKind, RoundingChoice> choose_rounding_of(const BlockJob& job, LinearInput input, const Block& block,
                                                        ActivationStats& stats, Matrix validation_gram, double share) {
  std::vector<LinearKind> kinds;
  std::vector<const Matrix*> weights;
  RoundingTrial trial = rounding_trial(job.recipe);
  for (const auto& [kind, grid] : quantized_of(job.tensors, input)) {
    kinds.push_back(kind);
    weights.push_back(&block.linear(kind).weight);
    trial.grids.push_back(grid);
  }
  trial.ranges = [&](const Matrix& rows, const Matrix& gram, size_t i) {
    LinearRecord unused;
    return ranges_of(job.recipe, kinds[i], rows, gram, trial.grids[i], unused);
  };
  const std::vector<RoundingChoice> found = choose_rounding(weights, stats.gram, validation_gram, share, trial);
  std::map<LinearKind, RoundingChoice> choices;
  for (size_t i = 0; i < kinds.size(); ++i) choices[kinds[i]] = found[i];
  return choices;
}

std::vector<GridTrial> try_grids(const BlockJob& job, LinearInput input, const Block& block,
                                 const ActivationStats& stats, std::vector<GridTrial> trials, InputFactor& factor) {
  std::vector<const Matrix*> weights;
  for (const auto& [kind, grid] : quantized_of(job.tensors, input)) weights.push_back(&block.linear(kind).weight);
  const Matrix sample = sample_rows(weights, kTrialRows);
  const LinearKind last = linears_of(input).back();
  LinearRecord unused;
  for (GridTrial& trial : trials) {
    if (trial.grid.bits == kUnquantizedBits) continue;
    const GroupRanges ranges = ranges_of(job.recipe, last, sample, stats.gram, trial.grid, unused);
    const RoundingOptions& rounding = job.recipe.rounding;
    const QuantizedTensor q = round_weight(rounding, sample, stats.gram, ranges, trial.grid, factor.of(rounding));
    const double error = linear_errors(sample, q, &stats.gram).output_error;
    trial.loss = error * error;
  }
  return trials;
}

RoundedBlock round_block(const BlockJob& job, Block block, BlockStats stats, GridTrials trials, Tracker& tracker) {
  RoundedBlock out;
  out.block = std::move(block);
  out.trials = std::move(trials);
  std::optional<RoundingOfInput> rounding;
  for (const QuantizedWeight& w : job.tensors.quantized) {
    job.enter(tracker, "round");
    QuantizedTensor joined;
    BlockTensor joined_blocks;
    for (const LinearSlot& slot : w.slots) {
      const double start = wall_seconds();
      const LinearInput input = input_of(slot.kind);
      const auto i = static_cast<size_t>(input);
      if (!rounding || rounding->input != input) {
        rounding.reset();  // only one input's factor is held
        rounding.emplace(begin_input(job, input, out.block, stats, out.trials[i], tracker));
      }
      Matrix& weight = out.block.linear(slot.kind).weight;
      RoundedLinear rounded = round_linear(job.recipe, slot.kind, weight, w.grid, stats.calibration[i],
                                           rounding->choice_of_linear(slot.kind), rounding->factor);
      LinearRecord& record = rounded.record;
      record.name = w.slots.size() == 1 ? w.name : fmt::format("{}[{}]", w.name, linear_kind_name(slot.kind));
      record.shape = {slot.rows, slot.columns};
      job.enter(tracker, "measure");
      if (w.grid.block) {
        add_errors(weight, rounded.blocks, stats.calibration[i], stats.held_back[i], record);
        weight = dequantize(rounded.blocks);
        append(joined_blocks, std::move(rounded.blocks));
      } else {
        add_errors(weight, rounded.tensor, stats.calibration[i], stats.held_back[i], record);
        job.enter(tracker, "round");
        weight = dequantize(rounded.tensor);
        append_rows(joined, std::move(rounded.tensor));
      }
      record.seconds = wall_seconds() - start;
      out.record_of[slot.kind] = out.linears.size();
      out.linears.push_back(std::move(record));
    }
    if (w.grid.block) {
      out.blocks.emplace(w.name, std::move(joined_blocks));
    } else {
      out.quantized.emplace(w.name, std::move(joined));
    }
  }
  return out;
}

}  // namespace metal_marlin

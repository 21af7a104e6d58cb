#include "plan/run_warnings.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <set>
#include <string_view>
#include <unordered_set>

#include "core/counted.h"
#include "core/files/text_file.h"
#include "core/half.h"
#include "families/tensor_names.h"
#include "formats/text.h"
#include "mixed/mixed_bits.h"
#include "recipe/ignored_options.h"
#include "recipe/pattern_hint.h"
#include "statistics/stats_file.h"
#include "text/texts.h"
#include "tokenizer/token_set.h"
#include "write/checkpoint_writer.h"
#include "write/manifest.h"

namespace metal_marlin {

namespace {

// The tensors that the folds of a layer change and that are not in codes: as the quantization of the block has them.
std::vector<std::string> folded_tensors(const ModelSource& source, int64_t layer, const LayerTensors& tensors) {
  std::set<LinearKind> quantized;
  for (const QuantizedWeight& w : tensors.quantized) {
    for (const LinearSlot& slot : w.slots) quantized.insert(slot.kind);
  }
  const std::vector<LinearSlot> slots = source.linears(layer);
  std::vector<std::string> names;
  for (const Fold& fold : source.family().folds) {
    const bool all = std::all_of(slots.begin(), slots.end(), [&](const LinearSlot& s) {
      return input_of(s.kind) != fold.input || quantized.count(s.kind) > 0;
    });
    if (!all || fold.producer == FoldProducer::kNone) continue;
    if (fold.producer == FoldProducer::kInputNorm || fold.producer == FoldProducer::kPreFeedForwardNorm) {
      names.push_back(source.norm_name(
          layer, fold.producer == FoldProducer::kInputNorm ? NormKind::kInput : NormKind::kPreFeedForward));
      continue;
    }
    const LinearKind kind = fold.producer == FoldProducer::kVRows ? LinearKind::kV : LinearKind::kUp;
    const auto own = std::find_if(slots.begin(), slots.end(), [&](const LinearSlot& s) { return s.kind == kind; });
    if (own == slots.end()) continue;
    if (quantized.count(kind) == 0) names.push_back(own->weight);
    if (own->has_bias) names.push_back(bias_name(own->weight));
  }
  return names;
}

}  // namespace

CheckpointPlan planned_checkpoint(const ModelSource& source, const Recipe& recipe,
                                  std::span<const LayerTensors> layers) {
  CheckpointPlan plan;
  plan.group_size = recipe.grid.group_size;
  plan.symmetric = recipe.grid.symmetric;
  plan.bits = recipe.grid.bits;
  plan.outer = recipe.outer;
  for (const LayerTensors& layer : layers) {
    for (const QuantizedWeight& w : layer.quantized) plan.quantized.push_back(planned_linear(w));
  }
  if (recipe.scales == ScaleMethod::kNone) return plan;
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    for (const std::string& name : folded_tensors(source, static_cast<int64_t>(layer), layers[layer]))
      plan.changed.push_back({name, DType::kF16});
  }
  return plan;
}

std::string quantized_storage(const ModelSource& source) {
  std::set<std::string> linears;
  for (int64_t layer = 0; layer < source.config().num_hidden_layers; ++layer) {
    for (const LinearSlot& slot : source.linears(layer)) linears.insert(slot.weight);
  }
  std::set<std::string> types;
  for (const CheckpointTensor& t : source.tensors()) {
    if (linears.count(t.name) > 0 && t.stored_as != "F32" && t.stored_as != "F16" && t.stored_as != "BF16" &&
        t.stored_as != "F64")
      types.insert(t.stored_as);
  }
  return fmt::format("{}", fmt::join(types, ", "));
}

std::vector<std::string> warnings_before_work(const ModelSource& source, const QuantizeOptions& options) {
  std::vector<std::string> warnings;
  if (const std::string types = quantized_storage(source); !types.empty()) {
    warnings.push_back(
        fmt::format("{} is already quantized ({}): the errors of both add up, and the report compares with it, not "
                    "with the model that it was made from; start from 16 bits if you can",
                    source.path(), types));
  } else if (const std::string before = quantized_before(source.path()); !before.empty()) {
    warnings.push_back(
        fmt::format("{} was quantized ({}) before convert wrote it as floats: the errors of both add up, and the "
                    "report compares with it, not with the model that it was made from; start from 16 bits if you can",
                    source.path(), escaped(before)));
  }
  for (const std::string& calibration : options.calibration.calibration) {
    if (!is_file(source_kind(calibration)) || !same_text(options.evaluation.text, calibration)) continue;
    warnings.push_back("the text for evaluation is one for calibration: the figures will flatter the result");
  }
  if (std::string text = ignored_options_warning(ignored_options(options)); !text.empty())
    warnings.push_back(std::move(text));
  return warnings;
}

std::vector<std::string> narrowed_tensors(const ModelSource& source, const QuantizeOptions& options,
                                          const Recipe& recipe, std::span<const LayerTensors> layers) {
  std::vector<std::string> names;
  std::unordered_set<std::string> seen;
  const CheckpointPlan plan = planned_checkpoint(source, recipe, layers);
  for (const std::string& format : options.formats) {
    for (const std::string& name : CheckpointWriter::of(format).forecast(source, plan).narrowed) {
      if (seen.insert(name).second) names.push_back(name);
    }
  }
  return names;
}

std::string narrowed_warning(const ModelSource& source, const Recipe& recipe,
                             const std::vector<std::string>& narrowed) {
  constexpr int64_t kRows = 1024;
  const auto loses = [&](const std::string& name, const std::vector<int64_t>& shape) {
    const int64_t rows = shape.size() > 1 ? shape[0] : 1;
    for (int64_t r = 0; r < rows; r += kRows) {
      const Matrix part = shape.size() > 1 ? source.load(name, r, std::min(kRows, rows - r)) : source.load(name);
      const auto values = part.values();
      if (std::any_of(values.begin(), values.end(), [](float v) { return f16_to_f32(f32_to_f16(v)) != v; }))
        return true;
    }
    return false;
  };
  // Scales are folded into norms and biases of the blocks: those are in 16 bits already when the figures are measured.
  const bool folds = recipe.scales != ScaleMethod::kNone;
  const std::string blocks = source.linears(0).front().weight;
  const std::string prefix = blocks.substr(0, blocks.find(".0.") + 1);
  const std::unordered_set<std::string_view> concerned(narrowed.begin(), narrowed.end());
  for (const CheckpointTensor& t : source.tensors()) {
    if (concerned.count(t.name) == 0) continue;
    if (folds && t.shape.size() < 2 && t.name.starts_with(prefix)) continue;
    const bool lost = loses(t.name, t.shape);
    source.release(t.name);
    if (!lost) continue;
    return fmt::format(
        "{}: stores tensors in float32 that are written in 16 bits, {} for one; perplexity and KL divergence of the "
        "report are measured before that, evaluate the result for figures of it",
        source.path(), escaped(source.stored_name(t.name)));
  }
  return {};
}

std::string first_rows_warning(const Recipe& recipe, const StatsFile& statistics) {
  if (recipe.first_token_weight == 1 || !needs_gram(recipe) || statistics.first_rows()) return {};
  return fmt::format(
      "{}: the inputs of first tokens are not in it, so they count once, not {} times: expect less accuracy, or "
      "calibrate again",
      statistics.path(), recipe.first_token_weight);
}

std::string diagonal_warning(const Recipe& recipe, const StatsFile& statistics) {
  if (!needs_gram(recipe) || !statistics.diagonal()) return {};
  return fmt::format(
      "{}: an imatrix has the squares of the inputs alone and says nothing of how they go together: error feedback and "
      "refinement have nothing to go by, and mean and largest input are taken for the root of the mean square; expect "
      "less accuracy than with a text or statistics (.npz)",
      statistics.path());
}

std::vector<std::string> float16_warnings(const ModelSource& source, const WriteReport& report,
                                          std::span<const BlockRecord> blocks) {
  struct Lost {
    std::string name;
    uint64_t count;
  };
  std::vector<std::string> warnings;
  std::vector<Lost> lost;
  for (const ClampedTensor& c : report.clamped) {
    const std::string name = escaped(source.stored_name(c.name));
    if (c.clamped > 0) {
      warnings.push_back(fmt::format("{}: {} {} float16 and {} clamped to +-65504, the largest is {}", name,
                                     counted(c.clamped, "value"), form_for(c.clamped, "exceeds", "exceed"),
                                     form_for(c.clamped, "was", "were"), c.largest));
    }
    if (c.flushed > 0) lost.push_back({name, c.flushed});
  }
  for (const BlockRecord& block : blocks) {
    for (const FlushedRecord& entry : block.flushed)
      lost.push_back({escaped(source.stored_name(entry.name)), static_cast<uint64_t>(entry.flushed)});
  }
  if (lost.empty()) return warnings;
  std::stable_sort(lost.begin(), lost.end(), [](const Lost& a, const Lost& b) { return a.count > b.count; });
  constexpr size_t kNamed = 4;
  uint64_t values = 0;
  std::string list;
  for (size_t i = 0; i < lost.size(); ++i) {
    values += lost[i].count;
    if (i < kNamed) list += fmt::format("{}{} of {}", i > 0 ? ", " : "", lost[i].count, lost[i].name);
  }
  if (lost.size() > kNamed) list += fmt::format(" and {}", counted(lost.size() - kNamed, "more tensor"));
  warnings.push_back(fmt::format("{}: {} that {} not 0 became 0, because float16 holds nothing below 3e-8: {}",
                                 source.path(), counted(values, "value"), form_for(values, "was", "were"), list));
  return warnings;
}

std::string clamped_scales_warning(std::span<const BlockRecord> blocks) {
  int64_t scales = 0;
  size_t linears = 0;
  std::string first;
  for (const BlockRecord& block : blocks) {
    for (const LinearRecord& linear : block.linears) {
      if (linear.clamped_scales == 0) continue;
      if (linears++ == 0) first = linear.name;
      scales += linear.clamped_scales;
    }
  }
  if (scales == 0) return {};
  return fmt::format(
      "{} of {} {} float16 and {} clamped to 65504, so the largest weights of {} are lost; the first: {}",
      counted(scales, "scale"), counted(linears, "linear"), form_for(scales, "exceeds", "exceed"),
      form_for(scales, "was", "were"), form_for(scales, "its group", "their groups"), escaped(first));
}

void require_judge(const QuantizeOptions& options) {
  const std::string& text = options.evaluation.text;
  // Bits are chosen by the estimate, which needs no evaluation.
  const bool only_chooses = chooses_by_limit(options) && text == "none";
  if (!options.max_kl || only_chooses) return;
  if (text == "none" || (text.empty() && from_statistics(options.calibration)))
    throw ArgumentError("max-kl", "--max-kl: there is no text to judge by; name one with --evaluate FILE");
}

std::vector<std::string> unused_pattern_warnings(const QuantizeOptions& options, std::span<const LayerTensors> layers) {
  std::vector<std::string> warnings;
  for (const std::string& pattern : options.skip) {
    const bool used = std::any_of(layers.begin(), layers.end(), [&](const LayerTensors& l) {
      return std::any_of(l.skipped.begin(), l.skipped.end(),
                         [&](const Skipped& k) { return matches_any({pattern}, k.name); });
    });
    if (used) continue;
    std::vector<std::string> names;
    for (const LayerTensors& l : layers) {
      for (const QuantizedWeight& w : l.quantized) names.push_back(w.name);
      for (const Skipped& s : l.skipped) names.push_back(s.name);
    }
    warnings.push_back(
        fmt::format("--skip '{}' matches no linear: {}", escaped(pattern), pattern_hint(pattern, names)));
  }
  return warnings;
}

}  // namespace metal_marlin

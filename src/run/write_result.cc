#include "run/write_result.h"

#include <fmt/format.h>

#include <filesystem>

#include "core/counted.h"
#include "core/enum_names.h"
#include "formats/text.h"
#include "plan/run_warnings.h"
#include "run/journal/journal_provider.h"

namespace metal_marlin {

namespace fs = std::filesystem;

std::string evaluated_text(const EvaluationOptions& options, const TokenSet& held_back) {
  if (held_back.sequences.empty())
    return options.text == "none" ? "nothing (--evaluate none)" : "nothing (there was no text for it)";
  const std::string source =
      options.text.empty() ? "held-back part of the calibration text" : fs::path(options.text).filename().string();
  return fmt::format("{}: {} of {}", source, counted(held_back.sequences.size(), "chunk"),
                     counted(held_back.longest(), "token"));
}

CheckpointPlan result_plan(const Recipe& recipe, std::span<const LayerTensors> layers,
                           std::span<const BlockRecord> blocks, const CardTexts& card) {
  CheckpointPlan plan;
  plan.group_size = recipe.grid.group_size;
  plan.symmetric = recipe.grid.symmetric;
  plan.bits = recipe.grid.bits;
  plan.outer = recipe.outer;
  plan.method = name_of(recipe.method);
  plan.figures = card.figures;
  plan.calibration = card.calibration;
  plan.evaluation = card.evaluation;
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    const BlockRecord& record = blocks[layer];
    for (const QuantizedWeight& w : layers[layer].quantized) {
      QuantizedLinear q = planned_linear(w);
      for (const ScaleRecord& scale : record.scales) {
        if (scale.tap == input_name(input_of(w.slots.front().kind))) q.folded = scale.producer;
      }
      plan.quantized.push_back(std::move(q));
    }
    for (const std::string& name : record.changed) plan.changed.push_back({name, DType::kF16});
    for (const Skipped& s : layers[layer].skipped) plan.skipped.push_back({s.name, s.reason});
  }
  return plan;
}

std::map<std::string, int64_t> journal_layers(std::span<const LayerTensors> layers,
                                              std::span<const BlockRecord> blocks) {
  std::map<std::string, int64_t> layer_of;
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    const auto number = static_cast<int64_t>(layer);
    for (const QuantizedWeight& w : layers[layer].quantized) layer_of[w.name] = number;
    for (const std::string& name : blocks[layer].changed) layer_of[name] = number;
  }
  return layer_of;
}

std::vector<std::string> conversion_warnings(const ModelSource& source, const std::string& format,
                                             const WriteReport& report, std::span<const BlockRecord> blocks,
                                             bool tell_of_narrowing) {
  std::vector<std::string> warnings = float16_warnings(source, report, blocks);
  warnings.insert(warnings.end(), report.warnings.begin(), report.warnings.end());
  if (report.rounded.empty() || !tell_of_narrowing) return warnings;
  const size_t rounded = report.rounded.size();
  warnings.push_back(
      fmt::format("{}: {} of the source, which stores {} in float32, {} written in 16 bits ({}); perplexity "
                  "and KL divergence of this report were measured before that, evaluate the result for figures of it; "
                  "the first: {}",
                  source.path(), counted(rounded, "tensor"), form_for(rounded, "it", "them"),
                  form_for(rounded, "is", "are"), format, escaped(source.stored_name(report.rounded.front()))));
  return warnings;
}

std::vector<std::pair<std::string, WriteReport>> write_formats(
    const ModelSource& source, const std::vector<std::string>& formats, const CheckpointPlan& plan,
    const std::map<std::string, int64_t>& layer_of, const ReadBlock& read, const std::string& place, Tracker& tracker) {
  std::vector<std::pair<std::string, WriteReport>> reports;
  for (const std::string& format : formats) {
    const std::string folder = formats.size() == 1 ? place : (fs::path(place) / format_folder(format)).string();
    JournalProvider provider(read, layer_of);
    const CheckpointWriter writer = CheckpointWriter::of(format);
    reports.emplace_back(format, writer.write(source, plan, provider, folder, [&](int64_t done, int64_t total) {
      tracker.enter("write", done, total);
    }));
  }
  return reports;
}

}  // namespace metal_marlin

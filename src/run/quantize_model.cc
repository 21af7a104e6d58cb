// quantize: what a run does, in order. Prepare (checks, texts, plan) -> the loop over blocks (run_blocks.h) -> score ->
// checkpoints (write_result.h) -> report -> put into place.
#include <fmt/format.h>
#include <metal_marlin/error.h>
#include <metal_marlin/quantize.h>
#include <metal_marlin/report.h>

#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <utility>

#include "core/border.h"
#include "core/files/atomic_file.h"
#include "core/machine.h"
#include "core/threads.h"
#include "eval/score.h"
#include "mixed/mixed_bits.h"
#include "model/model.h"
#include "plan/left_out.h"
#include "plan/run_warnings.h"
#include "recipe/budget.h"
#include "recipe/format_grid.h"
#include "recipe/make_recipe.h"
#include "recipe/presets.h"
#include "recipe/tensor_plan.h"
#include "report/card_facts.h"
#include "report/gate.h"
#include "report/render/text_words.h"
#include "report/run_report.h"
#include "run/output/output_checks.h"
#include "run/output/output_folder.h"
#include "run/prepare_run.h"
#include "run/run_blocks.h"
#include "run/run_identity.h"
#include "run/write_result.h"

namespace metal_marlin {
namespace {

std::unique_ptr<ModelSource> open_checked(const std::string& model) {
  auto source = ModelSource::open(model);
  source->check();
  return source;
}

// report.json comes last: with it the result is whole.
void write_report(const Report& report, const std::string& folder) {
  const std::filesystem::path path(folder);
  write_text_file((path / "report.html").string(), render_report_html(report));
  write_text_file((path / "report.json").string(), report.to_json());
}

// The finished result in the output folder. --max-kl is not part of the run's identity, so the report's gate is made
// anew for the limit of this command.
QuantizeResult completed(const Folder& folder, const RunJob& job) {
  QuantizeResult result;
  result.report = finished_report(folder);
  result.already_complete = true;
  const std::optional<double>& limit = job.options.max_kl;
  result.passed_gate = gate_verdict(result.report, limit);
  const GateRecord gate = gate_record(result.report, limit);
  GateRecord& old = result.report.gate;
  const bool same = old.max_kl == gate.max_kl && old.passed == gate.passed;
  old = gate;
  result.report.options["max_kl"] = gate.max_kl ? OptionValue(*gate.max_kl) : OptionValue();
  if (!same) write_report(result.report, job.output);
  return result;
}

// Scores the states that left the last block.
EvaluationRecord score_streams(const ModelSource& source, const RunTexts& texts, const RunStreams& streams,
                               const RowRounding& rounding, Tracker& tracker) {
  Metrics metrics("the quantized model", source.path());
  const Head head(source);
  // Only GGUF rounds the head.
  const std::unique_ptr<Head> own =
      rounding ? std::make_unique<Head>(source, MatmulPrecision::kF32, HeadBits::kStored, rounding) : nullptr;
  const Head& quantized = own ? *own : head;
  score({quantized, *streams.quantized}, FinalStates{head, *streams.reference}, texts.held_back.sequences, metrics,
        [&](int64_t done, int64_t total) {
          tracker.set_fraction(0.9 + 0.09 * static_cast<double>(done) / static_cast<double>(total));
          tracker.enter("score", done, total);
        });
  return metrics.result();
}

struct Figures {
  BlocksDone done;
  std::optional<EvaluationRecord> evaluation;
};
// All blocks, and the evaluation where there is a text for it.
Figures run_and_score(const BlocksJob& job, const RowRounding& rounding, const std::string& scratch_folder,
                      Journal& journal, Tracker& tracker) {
  RunStreams streams = make_streams(job.source, job.recipe, job.texts, scratch_folder, rounding);
  Figures out;
  out.done = run_blocks(job, streams, journal, tracker);
  streams.calibration.reset();  // its memory is free for the head
  if (streams.evaluates()) out.evaluation = score_streams(job.source, job.texts, streams, rounding, tracker);
  return out;
}

std::vector<BlockRecord> block_records(const Journal& journal, size_t layers) {
  std::vector<BlockRecord> records;
  for (size_t layer = 0; layer < layers; ++layer)
    records.push_back(journal.read_block_record(static_cast<int64_t>(layer)));
  return records;
}

// Several formats lose the same values: each sentence once.
void warn_of_conversion(const RunJob& job, const RunFacts& facts, bool tell_of_narrowing, Tracker& tracker) {
  std::set<std::string> told;
  for (const auto& [format, written] : facts.written) {
    for (const std::string& text : conversion_warnings(job.source, format, written, facts.blocks, tell_of_narrowing)) {
      if (told.insert(text).second) tracker.warn(text);
    }
  }
}

// The work of a run that is neither complete nor only to be put into place. `layers`: planned for this recipe.
QuantizeResult work(const RunJob& job, Recipe recipe, std::vector<LayerTensors> layers, const RunStatistics& statistics,
                    const RunPlace& where, Tracker& tracker) {
  const ModelSource& source = job.source;
  Journal& journal = where.journal;
  PreparedRun prepared = prepare_run(job, recipe, layers, statistics, where, tracker);
  const RunTexts& texts = prepared.texts;
  RunFacts facts;
  if (chooses_bits(job.options)) {
    ChosenBits chosen = choose_run_bits(job, recipe, layers, texts.calibration, journal, tracker);
    facts.mixed = std::move(chosen.record);
    recipe.chosen_grids = std::move(chosen.grids);
    layers = planned_layers(source, job.options, recipe);
    require_quantized(source, layers);
  }
  const bool spilled = prepared.memory.spilled > 0;
  const BlocksJob blocks{source, recipe, layers, texts, statistics.file.get(), !spilled};
  Figures figures = run_and_score(blocks, outer_rounding(source, recipe, job.options), spilled ? journal.folder() : "",
                                  journal, tracker);
  facts.evaluation = std::move(figures.evaluation);
  facts.resumed_blocks = figures.done.resumed;
  facts.forward_operations = figures.done.forward_operations;

  const std::string staged = where.folder.stage();
  facts.blocks = block_records(journal, layers.size());
  const CardTexts card{card_figures(facts.evaluation.value_or(EvaluationRecord())),
                       calibration_text(texts.record, statistics.made_from),
                       evaluated_text(job.options.evaluation, texts.held_back)};
  CheckpointPlan plan = result_plan(recipe, layers, facts.blocks, card);
  plan.max_shard_bytes = job.options.max_shard_bytes;
  facts.written = write_formats(
      source, job.options.formats, plan, journal_layers(layers, facts.blocks),
      [&](int64_t layer) { return finished_block(source, layers, journal, layer); }, staged, tracker);
  warn_of_conversion(job, facts, facts.evaluation && !prepared.caveats.narrowing, tracker);

  tracker.enter("report", 0, 1);
  facts.model = source.path();
  facts.output = job.output;
  facts.fingerprint = run_fingerprint(where.identity);
  facts.identity = where.identity;
  facts.texts = &texts;
  facts.first_rows = !statistics.file || statistics.file->first_rows();
  facts.calibration_tokens =
      statistics.file ? static_cast<int64_t>(statistics.file->tokens()) : texts.calibration.tokens();
  facts.made_from = statistics.made_from;
  facts.few_tokens = std::move(prepared.caveats.few_tokens.list);
  facts.plan = prepared.memory;
  for (const LayerTensors& l : layers) facts.skipped.insert(facts.skipped.end(), l.skipped.begin(), l.skipped.end());
  for (Skipped& s : left_out_tensors(source)) facts.skipped.push_back(std::move(s));
  if (const std::string text = clamped_scales_warning(facts.blocks); !text.empty()) tracker.warn(text);
  QuantizeResult result;
  result.report = build_report(source, recipe, job.options, facts, tracker);
  write_report(result.report, staged);
  result.passed_gate = gate_verdict(result.report, job.options.max_kl);
  source.check_unchanged();
  where.folder.place([&](const std::string& text) { tracker.warn(text); });
  return result;
}

QuantizeResult run(const std::string& model, const std::string& output, const QuantizeOptions& options,
                   const Observer& observer) {
  Tracker tracker(observer);
  Journal journal(output);
  const std::unique_ptr<ModelSource> source = open_checked(model);
  const Recipe recipe = make_recipe(options, *source);
  const RunJob job{*source, options, output};
  tracker.enter("prepare", 0, 1);
  check_output(*source, output);
  for (const std::string& text : warnings_before_work(*source, options)) tracker.warn(text);
  tracker.warn_of(source->warnings());
  const OutputFolder::Warn warn = [&](const std::string& text) { tracker.warn(text); };
  auto folder = std::make_unique<OutputFolder>(output, OutputFolder::Use::kWrite, warn);
  const IdentityRecord identity = run_identity(options, recipe, *source);
  const Start start = decide_start(*folder, journal, *source, identity, options, warn);
  if (start == Start::kComplete) {
    folder->remove_journal();  // of a run that was killed after the report, while it was being removed
    return completed(folder->folder(), job);
  }
  const RunStatistics statistics = open_statistics(job, recipe);
  std::vector<LayerTensors> layers = planned_layers(*source, options, recipe);
  require_quantized(*source, layers);
  check_before_work(job, recipe, layers, tracker);
  if (start == Start::kResume && finish_placing(*folder, identity, warn)) {
    folder = std::make_unique<OutputFolder>(output, OutputFolder::Use::kWrite, warn);  // the one that is there now
    return completed(folder->folder(), job);
  }
  return work(job, recipe, std::move(layers), statistics, {*folder, journal, identity, start}, tracker);
}

}  // namespace

QuantizeResult quantize_model(const std::string& model, const std::string& output, const QuantizeOptions& options,
                              const Observer& observer) try {
  const ThreadCount thread_count(options.machine.threads);
  check_memory_budget(options.machine.memory_bytes);
  require_judge(options);
  return run(model, output, settle_formats(options), observer);
} catch (...) {
  rethrow_as_error("quantize_model");
}

}  // namespace metal_marlin

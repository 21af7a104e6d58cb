#include "run/prepare_run.h"

#include <metal_marlin/error.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/files/atomic_file.h"
#include "core/files/held_folder.h"
#include "formats/json/bounded_json.h"
#include "mixed/mixed_bits.h"
#include "mixed/sensitivity.h"
#include "options/sources.h"
#include "plan/run_warnings.h"
#include "recipe/budget.h"
#include "recipe/presets.h"
#include "records/json_records.h"
#include "run/run_identity.h"
#include "run/run_texts.h"
#include "write/checkpoint_writer.h"

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;

// NaN and infinity are found before anything is written, and after what takes no pass over the weights.
void check_weights(const ModelSource& source, Tracker& tracker) {
  const auto tensors = source.tensors();
  for (size_t i = 0; i < tensors.size(); ++i) {
    tracker.enter("check", static_cast<int64_t>(i), std::ssize(tensors));
    source.check_finite(tensors[i].name);
  }
}

// Warnings that the texts have caused since there were `before`.
std::vector<std::string> warnings_since(size_t before, const Tracker& tracker) {
  const auto& all = tracker.warnings();
  return {all.begin() + static_cast<int64_t>(before), all.end()};
}

void warn_if(const std::string& text, Tracker& tracker) {
  if (!text.empty()) tracker.warn(text);
}

}  // namespace

RunStatistics open_statistics(const RunJob& job, const Recipe& recipe) {
  RunStatistics out;
  const CalibrationOptions& calibration = job.options.calibration;
  if (!from_statistics(calibration)) return out;
  out.file = std::make_unique<StatsFile>(calibration.calibration.front(), job.source, needs_gram(recipe),
                                         memory_budget(job.options.machine) / 2);  // it is held twice for a moment
  out.text = statistics_record(calibration, *out.file);
  out.made_from = out.file->calibration();
  return out;
}

void check_before_work(const RunJob& job, const Recipe& recipe, const std::vector<LayerTensors>& layers,
                       Tracker& tracker) {
  for (const std::string& format : job.options.formats) CheckpointWriter::of(format).require_writable(job.source);
  if (chooses_bits(job.options)) check_reachable(sensitive_items(layers, recipe, job.options), job.options);
  for (const std::string& text : unused_pattern_warnings(job.options, layers)) tracker.warn(text);
  if (!preparation_is_long(job.options.calibration)) return;
  const TextSizes sizes = expected_sizes(job.source, job.options);
  plan_memory(job.source, recipe, job.options, sizes.calibration, sizes.held_back, job.output);
}

Caveats warn_of_caveats(const RunJob& job, const Recipe& recipe, const std::vector<LayerTensors>& layers,
                        const RunStatistics& statistics, int64_t tokens, bool evaluates, Tracker& tracker) {
  const StatsFile* file = statistics.file.get();
  const CalibrationOptions& calibration = job.options.calibration;
  if (file != nullptr)
    warn_if(file->diagonal() ? diagonal_warning(recipe, *file) : first_rows_warning(recipe, *file), tracker);
  const auto tokens_of = [&](int64_t layer, LinearInput input) {
    return file != nullptr ? file->tokens(layer, input) : static_cast<uint64_t>(tokens);
  };
  Caveats out;
  out.few_tokens = find_few_tokens(layers, recipe, tokens_of, file != nullptr ? 0 : calibration.sequence_length,
                                   calibration.select > 0);
  warn_if(out.few_tokens.warning, tracker);
  if (!evaluates) return out;
  const std::string text =
      narrowed_warning(job.source, recipe, narrowed_tensors(job.source, job.options, recipe, layers));
  out.narrowing = !text.empty();
  warn_if(text, tracker);
  return out;
}

PreparedRun prepare_run(const RunJob& job, const Recipe& recipe, const std::vector<LayerTensors>& layers,
                        const RunStatistics& statistics, const RunPlace& where, Tracker& tracker) {
  const QuantizeOptions& options = job.options;
  Journal& journal = where.journal;
  const bool resuming = where.start == Start::kResume;
  const size_t before = tracker.warnings().size();
  PreparedRun out;
  const auto make_texts = [&] {
    out.texts = prepare_texts(job.source, options, tracker, (fs::path(journal.folder()) / "scratch-pool").string());
  };
  const auto plan = [&] {
    out.memory = plan_memory(job.source, recipe, options, out.texts.calibration.tokens(), out.texts.held_back.tokens(),
                             job.output);
  };
  const bool ready = !resuming && !preparation_is_long(options.calibration);
  if (ready) {
    make_texts();
    plan();
  }
  if (!journal.exists()) check_weights(job.source, tracker);  // a resumed run has looked already
  if (resuming) {
    journal.resume();
  } else {
    const Manifest old = where.folder.manifest();
    journal.begin(run_fingerprint(where.identity), where.identity);
    where.folder.note(old);
  }
  std::optional<StoredTexts> stored = resuming ? stored_texts(journal, job.source.config().vocab_size) : std::nullopt;
  if (stored) {
    out.texts = std::move(stored->texts);
    for (const std::string& text : stored->warnings) tracker.warn(text);
  } else {
    if (!ready) make_texts();
    store_texts(journal, out.texts, warnings_since(before, tracker));
  }
  if (!ready) plan();
  if (statistics.file) out.texts.record = statistics.text;
  out.caveats = warn_of_caveats(job, recipe, layers, statistics, out.texts.calibration.tokens(),
                                !out.texts.held_back.sequences.empty(), tracker);
  return out;
}

namespace {

// What an earlier try measured; nothing where the file is not there or damaged.
std::optional<SensitivityRecord> read_sensitivity(const std::string& path) {
  if (!held_exists(path)) return std::nullopt;
  const std::string text = read_text_file(open_held_file(path), path, kLargestJournalText);
  return record_if_whole<SensitivityRecord>(parse_json_or_discard(text));
}

}  // namespace

ChosenBits choose_run_bits(const RunJob& job, const Recipe& recipe, const std::vector<LayerTensors>& layers,
                           const TokenSet& calibration, Journal& journal, Tracker& tracker) {
  const std::string path = (fs::path(journal.folder()) / "sensitivity.json").string();
  Sensitivity sensitivity;
  sensitivity.items = sensitive_items(layers, recipe, job.options);
  warn_if(sensitivity_warning(job.options, std::ssize(calibration.sequences)), tracker);
  const auto measured = read_sensitivity(path);
  if (!measured || !take_measured(*measured, sensitivity)) {
    const std::string scratch = (fs::path(journal.folder()) / "scratch-sensitivity").string();
    sensitivity = measure_sensitivity(job.source, job.options, recipe, layers, calibration, scratch, tracker);
    write_text_file(path,
                    json_of(record_of(sensitivity)).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  }
  try {
    const BitsChoice choice = choose_bits(sensitivity, job.options);
    return {grids_of(sensitivity, choice), mixed_record(sensitivity, choice, job.options)};
  } catch (const ArgumentError&) {
    journal.remove();
    throw;
  }
}

}  // namespace metal_marlin

// quantize: the loop over blocks. Stages: prepare (texts, plan) -> per block: load, forward with statistics, scales,
// rounding, journal -> final states scored -> checkpoints -> report.
#include <fmt/format.h>
#include <metal_marlin/error.h>
#include <metal_marlin/quantize.h>
#include <metal_marlin/report.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <set>
#include <span>

#include "core/border.h"
#include "core/counted.h"
#include "core/enum_names.h"
#include "core/files/atomic_file.h"
#include "core/files/file_status.h"
#include "core/machine.h"
#include "core/progress.h"
#include "core/threads.h"
#include "eval/score.h"
#include "formats/json/bounded_json.h"
#include "formats/text.h"
#include "mixed/mixed_bits.h"
#include "mixed/sensitivity.h"
#include "model/block.h"
#include "model/model.h"
#include "model/state_store.h"
#include "plan/few_tokens.h"
#include "plan/left_out.h"
#include "plan/memory_plan.h"
#include "plan/run_warnings.h"
#include "recipe/budget.h"
#include "recipe/make_recipe.h"
#include "recipe/presets.h"
#include "recipe/recipe.h"
#include "recipe/tensor_plan.h"
#include "records/json_records.h"
#include "report/evaluation_record.h"
#include "report/gate.h"
#include "report/render/text_words.h"
#include "report/run_report.h"
#include "run/finished_check.h"
#include "run/journal.h"
#include "run/journal_provider.h"
#include "run/output_folder.h"
#include "run/resume.h"
#include "run/run_identity.h"
#include "stages/block_probe.h"
#include "stages/quantize_block.h"
#include "statistics/statistics.h"
#include "statistics/stats_file.h"
#include "text/texts.h"
#include "tokenizer/token_set.h"
#include "write/checkpoint_writer.h"

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int64_t kHeldBackGramTokens = 8192;  // of the held-back tokens, for each linear's output error
constexpr double kSnapshotSeconds = 120;

class Run {
 public:
  Run(const std::string& model, const std::string& output, const QuantizeOptions& options, const Observer& observer)
      : options_(options),
        output_(output),
        tracker_(observer),
        journal_(output),
        source_(open(model)),
        recipe_(make_recipe(options, *source_)) {}

  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;

  QuantizeResult execute();

 private:
  static std::unique_ptr<ModelSource> open(const std::string& model) {
    auto source = ModelSource::open(model);
    source->check();
    return source;
  }
  QuantizeResult completed() const;
  void write_report(const Report& report, const std::string& folder) const;
  void check_before_work();
  void check_weights();
  void prepare(Start start);
  void plan_tensors();
  void work(Start start, QuantizeResult& result);
  void choose_mixed_bits();
  // Returns the number of operations.
  double forward(int64_t layer, const Block& block, StateStore& store, ComputeType precision,
                 const InputHook& hook) const;
  void run_blocks();
  FinishedBlock finished_block(int64_t layer) const;  // checked against the model
  void replay(int64_t layer);
  void quantize_layer(int64_t layer);
  void restore_states(int64_t layer);
  void snapshot(int64_t next_layer);
  Evaluation evaluate();
  void warn_of_conversion(const std::string& format, const WriteReport& report, std::span<const BlockRecord> blocks);
  std::string evaluated_text() const;
  std::vector<std::pair<std::string, WriteReport>> write(const std::string& figures_json, const std::string& place,
                                                         std::span<const BlockRecord> blocks);
  bool evaluating() const { return !texts_.held_back.sequences.empty(); }

  const QuantizeOptions& options_;
  std::string output_;
  Tracker tracker_;
  Journal journal_;
  std::unique_ptr<ModelSource> source_;
  Recipe recipe_;
  RunTexts texts_;
  MemoryRecord plan_;
  std::vector<LayerTensors> layers_;
  std::unique_ptr<StatsFile> stats_file_;
  std::unique_ptr<StateStore> calibration_;
  std::unique_ptr<StateStore> reference_;
  std::unique_ptr<StateStore> quantized_;
  FewTokens few_tokens_;
  TextRecord statistics_text_;           // of statistics from a file
  std::optional<TextRecord> made_from_;  // their text
  std::optional<MixedRecord> mixed_;     // where bits are chosen
  IdentityRecord identity_;
  std::unique_ptr<OutputFolder> folder_;
  std::set<std::string> told_of_float16_;  // several formats lose the same
  bool told_of_narrowing_ = false;         // that tensors of float32 are written in 16 bits
  int64_t resumed_blocks_ = 0;
  double forward_operations_ = 0;  // of the calibration stream
  double last_snapshot_ = 0;
  double snapshot_cost_ = 0;
};

// The finished result in OUT. --max-kl is not part of the run's identity, so the report's gate is made anew for the
// limit of this command.
QuantizeResult Run::completed() const {
  QuantizeResult result;
  result.report = finished_report(folder_->folder());
  result.already_complete = true;
  result.passed_gate = gate_verdict(result.report, options_.max_kl);
  const GateRecord gate = gate_record(result.report, options_.max_kl);
  GateRecord& old = result.report.gate;
  const bool same = old.max_kl == gate.max_kl && old.passed == gate.passed;
  old = gate;
  result.report.options["max_kl"] = gate.max_kl ? OptionValue(*gate.max_kl) : OptionValue();
  if (!same) write_report(result.report, output_);
  return result;
}

// report.json comes last: with it the result is whole.
void Run::write_report(const Report& report, const std::string& folder) const {
  write_text_file((fs::path(folder) / "report.html").string(), render_report_html(report));
  write_text_file((fs::path(folder) / "report.json").string(), report.to_json());
}

// Runs every check that can fail before anything is written or sampled.
void Run::check_before_work() {
  const bool statistics = from_statistics(options_.calibration);
  require_judge(options_);
  if (statistics) {
    stats_file_ = std::make_unique<StatsFile>(options_.calibration.calibration.front(), *source_, needs_gram(recipe_),
                                              memory_budget(options_.machine) / 2);  // it is held twice for a moment
    statistics_text_ = statistics_record(options_.calibration, *stats_file_, made_from_);
  }
  plan_tensors();
  if (chooses_bits(options_)) check_reachable(sensitive_items(layers_, recipe_, options_), options_);
  for (const std::string& text : unused_pattern_warnings(options_, layers_)) tracker_.warn(text);
  if (preparation_is_long(options_.calibration)) {
    const TextSizes sizes = expected_sizes(*source_, options_);
    plan_memory(*source_, recipe_, options_, sizes.calibration, sizes.held_back, output_);
  }
}

// NaN and infinity are found before anything is written, and after what takes no pass over the weights. A resumed run
// has looked already.
void Run::check_weights() {
  const auto tensors = source_->tensors();
  for (size_t i = 0; i < tensors.size(); ++i) {
    tracker_.enter("check", static_cast<int64_t>(i), static_cast<int64_t>(tensors.size()));
    source_->check_finite(tensors[i].name);
  }
}

void Run::prepare(Start start) {
  const bool resuming = start == Start::kResume;
  const size_t before = tracker_.warnings().size();
  const auto make_texts = [&] {
    texts_ = prepare_texts(*source_, options_, tracker_, (fs::path(journal_.folder()) / "scratch-pool").string());
  };
  const auto plan = [&] {
    plan_ = plan_memory(*source_, recipe_, options_, texts_.calibration.tokens(), texts_.held_back.tokens(), output_);
  };
  // A faulty text, or a budget that cannot be kept, must leave OUT as it was: texts and plan come before the journal.
  // Text that is made or selected takes long, so the journal begins first; check_before_work has planned its size.
  const bool ready = !resuming && !preparation_is_long(options_.calibration);
  if (ready) {
    make_texts();
    plan();
  }
  if (!journal_.exists()) check_weights();
  if (!resuming) {
    const Manifest old = folder_->manifest();
    journal_.begin(run_fingerprint(identity_), identity_);
    folder_->note(old);
  }
  const std::string texts_path = (fs::path(journal_.folder()) / "texts.json").string();
  if (!resuming || !path_exists(texts_path) || !journal_.read_tokens(texts_.calibration, texts_.held_back)) {
    if (!ready) make_texts();
    const std::vector<std::string> warnings(tracker_.warnings().begin() + static_cast<int64_t>(before),
                                            tracker_.warnings().end());
    // Before the tokens: a resumed run takes tokens only when this file is there.
    write_text_file(texts_path, json{{"held_back_source", texts_.held_back_source},
                                     {"calibration", json_of(texts_.record)},
                                     {"warnings", warnings}}
                                    .dump(-1, ' ', false, json::error_handler_t::replace));
    journal_.write_tokens(texts_.calibration, texts_.held_back);
  } else {
    const json j = parse_json_or_discard(read_text_file(texts_path));
    if (j.is_object()) {
      texts_.held_back_source = j.value("held_back_source", std::string());
      texts_.record = record_of<TextRecord>(
          j.value("calibration", json()),
          [&](const std::string& place, const std::string& expected, const std::string& found) {
            throw FormatError(fmt::format("{}: calibration{}{}: expected {}, found {}; run again with --no-resume",
                                          texts_path, place.empty() ? "" : "/", escaped(place), expected, found));
          });
      for (const json& text : j.value("warnings", json::array())) tracker_.warn(text.get<std::string>());
    }
  }
  if (!ready) plan();
  if (stats_file_) {
    texts_.record = statistics_text_;
    if (const std::string text = first_rows_warning(recipe_, *stats_file_); !text.empty()) tracker_.warn(text);
  }
  const auto tokens_of = [&](int64_t layer, LinearInput input) {
    return stats_file_ ? stats_file_->tokens(layer, input) : static_cast<uint64_t>(texts_.calibration.tokens());
  };
  few_tokens_ = find_few_tokens(layers_, recipe_, tokens_of, stats_file_ ? 0 : options_.calibration.sequence_length,
                                options_.calibration.select > 0);
  if (!few_tokens_.warning.empty()) tracker_.warn(few_tokens_.warning);
  if (evaluating()) {
    const std::vector<std::string> narrowed = narrowed_tensors(*source_, options_, recipe_, layers_);
    const std::string text = narrowed_warning(*source_, recipe_, narrowed);
    told_of_narrowing_ = !text.empty();
    if (told_of_narrowing_) tracker_.warn(text);
  }
  const auto scratch = [&](const char* name) {
    return plan_.spilled > 0 ? (fs::path(journal_.folder()) / name).string() : std::string();
  };
  const int64_t hidden = source_->config().hidden_size;
  const auto store = [&](const TokenSet& set, const char* name) {
    return std::make_unique<StateStore>(set.lengths(), hidden, scratch(name), BlockForward::kBatchTokens);
  };
  calibration_ = store(texts_.calibration, "scratch-calibration");
  reference_ = store(texts_.held_back, "scratch-reference");
  quantized_ = store(texts_.held_back, "scratch-quantized");
}

void Run::plan_tensors() {
  layers_.clear();
  for (int64_t layer = 0; layer < source_->config().num_hidden_layers; ++layer) {
    layers_.push_back(planned_tensors(*source_, layer, options_, recipe_));
  }
  const bool any =
      std::any_of(layers_.begin(), layers_.end(), [](const LayerTensors& l) { return !l.quantized.empty(); });
  if (!any)
    throw ArgumentError("nothing is left to quantize: every linear is skipped (first reason: " +
                        layers_.front().skipped.front().reason + ")");
}

// Chooses the bits of each linear. The measurement is stored, so that a resumed run makes the same choice.
void Run::choose_mixed_bits() {
  const std::string path = (fs::path(journal_.folder()) / "sensitivity.json").string();
  Sensitivity sensitivity;
  sensitivity.items = sensitive_items(layers_, recipe_, options_);
  if (const std::string text = sensitivity_warning(options_, std::ssize(texts_.calibration.sequences)); !text.empty())
    tracker_.warn(text);
  if (!path_exists(path) || !take_measured(read_text_file(path), sensitivity)) {
    const std::string scratch = (fs::path(journal_.folder()) / "scratch-sensitivity").string();
    sensitivity = measure_sensitivity(*source_, options_, recipe_, layers_, texts_.calibration, scratch, tracker_);
    write_text_file(path, json_of(record_of(sensitivity)).dump(-1, ' ', false, json::error_handler_t::replace));
  }
  BitsChoice choice;
  try {
    choice = choose_bits(sensitivity, options_);
  } catch (const ArgumentError&) {
    journal_.remove();  // no command continues this run: one with other limits is another run
    throw;
  }
  mixed_ = mixed_record(sensitivity, choice, options_);
  recipe_.chosen_grids = grids_of(sensitivity, choice);
  plan_tensors();
}

// Makes a pass for one layer and one stream only, so that its scratch memory is free while the block is quantized.
double Run::forward(int64_t layer, const Block& block, StateStore& store, ComputeType precision,
                    const InputHook& hook) const {
  BlockForward pass(source_->family(), source_->config(), precision);
  double operations = 0;
  for (const auto& batch : store.batches()) {
    Matrix m = store.read(batch);
    pass.run(layer, block, m, batch.lengths, hook);
    store.write(batch, m);
    operations += pass.operations(layer, batch.lengths);
  }
  return operations;
}

void Run::restore_states(int64_t layer) {
  for (const OwnedTensor& t : journal_.read_states(layer)) {
    StateStore* store = t.name == "calibration" ? calibration_.get()
                        : t.name == "reference" ? reference_.get()
                        : t.name == "quantized" ? quantized_.get()
                                                : nullptr;
    if (store == nullptr || t.dtype != DType::kF32 || t.shape != std::vector<int64_t>{store->rows(), store->hidden()}) {
      throw FormatError(
          fmt::format("{}: unexpected saved states \"{}\"; run again with --no-resume", journal_.folder(), t.name));
    }
    store->write_rows(0, store->rows(), reinterpret_cast<const float*>(t.bytes.data()));
  }
}

// Saves the hidden states now and then, so that a resumed run need not compute all blocks again. The interval keeps the
// writing below a tenth of the time.
void Run::snapshot(int64_t next_layer) {
  const double now = wall_seconds();
  double interval = std::max(kSnapshotSeconds, 10 * snapshot_cost_);
  if (const char* text = std::getenv("METAL_MARLIN_SNAPSHOT_SECONDS")) {
    char* end = nullptr;
    interval = std::strtod(text, &end);
    if (end == text || *end != 0 || !(interval >= 0)) {
      throw ArgumentError(fmt::format("METAL_MARLIN_SNAPSHOT_SECONDS: expected seconds >= 0, found '{}'", text));
    }
  }
  if (plan_.spilled > 0 || now - last_snapshot_ < interval) return;
  tracker_.enter("save states", next_layer, source_->config().num_hidden_layers);
  std::vector<TensorView> views;
  const auto add = [&](const char* name, const StateStore& store) {
    if (store.rows() == 0) return;
    views.push_back({name, DType::kF32, {store.rows(), store.hidden()}, std::as_bytes(store.in_memory())});
  };
  add("calibration", *calibration_);
  add("reference", *reference_);
  add("quantized", *quantized_);
  journal_.write_states(next_layer, views);
  last_snapshot_ = wall_seconds();
  snapshot_cost_ = last_snapshot_ - now;
}

FinishedBlock Run::finished_block(int64_t layer) const {
  FinishedBlock block = journal_.read_block(layer);
  check_finished(*source_, layer, layers_[static_cast<size_t>(layer)], journal_.read_block_record(layer), block,
                 journal_.block_path(layer, "safetensors"));
  return block;
}

// Passes the states through a block that an earlier run has finished.
void Run::replay(int64_t layer) {
  tracker_.enter("replay", layer, source_->config().num_hidden_layers);
  Block block = load_block(*source_, layer);
  if (calibration_->rows() > 0) forward(layer, block, *calibration_, recipe_.precision, {});
  if (evaluating()) {
    forward(layer, block, *reference_, ComputeType::kF32, {});
    apply_finished(*source_, layer, finished_block(layer), block);
    forward(layer, block, *quantized_, ComputeType::kF32, {});
  }
}

void Run::quantize_layer(int64_t layer) {
  const int64_t layers = source_->config().num_hidden_layers;
  tracker_.enter("load", layer, layers);
  Block block = load_block(*source_, layer);
  BlockTask task;
  task.source = source_.get();
  task.recipe = &recipe_;
  task.tensors = &layers_[static_cast<size_t>(layer)];
  task.layer = layer;

  StateStore& probe = calibration_->rows() > 0 ? *calibration_ : *reference_;
  if (probe.rows() > 0) {
    take_probe(probe, task);
  } else {
    std::vector<int32_t> ids;
    for (int64_t i = 0; i < kInvarianceTokens; ++i)
      ids.push_back(static_cast<int32_t>(i % source_->config().vocab_size));
    task.invariance_input = Matrix(kInvarianceTokens, source_->config().hidden_size);
    embed(*source_, ids, task.invariance_input);
  }
  if (recipe_.scale_loss == ScaleLoss::kBlock && calibration_->rows() > 0) take_replay(*calibration_, task);

  std::array<ActivationStats, kLinearInputs> stats;
  std::array<ActivationStats, kLinearInputs> guard;
  if (stats_file_) {
    tracker_.enter("read statistics", layer, layers);
    stats = stats_file_->load(layer);
  } else {
    tracker_.enter("forward", layer, layers);
    const std::vector<int64_t> lengths = texts_.calibration.lengths();
    const int64_t last = guard_sequences(recipe_, static_cast<int64_t>(lengths.size()));
    StatsCollector collector(true, recipe_.precision, lengths, last);
    const auto hook = [&](LinearInput input, const float* x, int64_t rows, int64_t features) {
      tracker_.enter("statistics", layer, layers);
      collector.add(input, x, rows, features);
      tracker_.enter("forward", layer, layers);
    };
    forward_operations_ += forward(layer, block, *calibration_, recipe_.precision, hook);
    stats = collector.finish(
        [&](LinearInput input) { return fmt::format("layer {}: inputs of {}", layer, input_name(input)); });
    if (last > 0) {
      guard = collector.finish_last();
      for (ActivationStats& s : guard) weigh_first_rows(s, recipe_.first_token_weight);
      task.guard = &guard;
      task.guard_share = static_cast<double>(guard.front().tokens) / static_cast<double>(stats.front().tokens);
    }
  }
  for (ActivationStats& s : stats) weigh_first_rows(s, recipe_.first_token_weight);
  task.stats = &stats;

  std::array<ActivationStats, kLinearInputs> held_back;
  if (evaluating()) {
    tracker_.enter("evaluate", layer, layers);
    StatsCollector collector;
    std::array<int64_t, kLinearInputs> seen{};
    const auto hook = [&](LinearInput input, const float* x, int64_t rows, int64_t features) {
      int64_t& n = seen[static_cast<size_t>(input)];
      const int64_t take = std::min(rows, kHeldBackGramTokens - n);
      if (take > 0) collector.add(input, x, take, features);
      n += rows;
    };
    forward(layer, block, *reference_, ComputeType::kF32, hook);
    held_back = collector.finish();
    task.held_back = &held_back;
  }
  // The check needs the block's output in f32. A bf16 stream does not have it; then the check runs the block itself.
  if (probe.rows() > 0 && (recipe_.precision == ComputeType::kF32 || &probe == reference_.get())) {
    task.invariance_output = Matrix(task.invariance_input.rows(), probe.hidden());
    probe.read_rows(0, task.invariance_output.rows(), task.invariance_output.data());
  }

  BlockResult result = quantize_block(task, block, tracker_);

  if (evaluating()) {
    tracker_.enter("evaluate", layer, layers);
    forward(layer, block, *quantized_, ComputeType::kF32, {});
  }
  tracker_.enter("journal", layer, layers);
  source_->check_unchanged();
  journal_.write_block(layer, result.finished, result.record);
  for (const LinearSlot& slot : source_->linears(layer)) source_->release(slot.weight);
}

void Run::run_blocks() {
  const int64_t layers = source_->config().num_hidden_layers;
  const int64_t finished = std::min(journal_.finished_blocks(), layers);
  resumed_blocks_ = finished;
  for (int64_t layer = 0; layer < finished; ++layer)
    finished_block(layer);  // throws for a damaged file before the work begins
  int64_t start = 0;
  const auto saved = journal_.states_layer();
  tracker_.enter("embed", 0, layers);
  if (saved && *saved <= finished) {
    restore_states(*saved);
    start = *saved;
  } else {
    embed_sequences(*source_, texts_.calibration, *calibration_);
    embed_sequences(*source_, texts_.held_back, *reference_);
    embed_sequences(*source_, texts_.held_back, *quantized_);
  }
  if (finished > 0) tracker_.note(fmt::format("resuming after block {} of {}", finished, layers));
  last_snapshot_ = wall_seconds();
  const bool states_needed = finished < layers || evaluating();
  for (int64_t layer = start; layer < layers && states_needed; ++layer) {
    tracker_.set_fraction(0.9 * static_cast<double>(layer - start) / static_cast<double>(layers - start));
    if (layer < finished) {
      replay(layer);
    } else {
      quantize_layer(layer);
      if (layer + 1 < layers) snapshot(layer + 1);
    }
  }
}

Evaluation Run::evaluate() {
  calibration_.reset();
  Metrics metrics("the quantized model", source_->path());
  const Head reference_head(*source_);
  const auto& batches = reference_->batches();
  for (size_t i = 0; i < batches.size(); ++i) {
    tracker_.set_fraction(0.9 + 0.09 * static_cast<double>(i) / static_cast<double>(batches.size()));
    tracker_.enter("score", static_cast<int64_t>(i), static_cast<int64_t>(batches.size()));
    const Matrix reference = reference_->read(batches[i]);
    const Matrix quantized = quantized_->read(batches[i]);
    score(reference_head, quantized, &reference_head, &reference,
          std::span(texts_.held_back.sequences)
              .subspan(static_cast<size_t>(batches[i].first_sequence), batches[i].lengths.size()),
          metrics);
  }
  return metrics.result();
}

// The evaluation's text for the model card: the file without its folder, and how much of it was used.
std::string Run::evaluated_text() const {
  if (!evaluating())
    return options_.evaluation.text == "none" ? "nothing (--evaluate none)" : "nothing (there was no text for it)";
  const std::string& file = options_.evaluation.text;
  const std::string source =
      file.empty() ? "held-back part of the calibration text" : fs::path(file).filename().string();
  const size_t chunks = texts_.held_back.sequences.size();
  return fmt::format("{}: {} of {}", source, counted(chunks, "chunk"), counted(texts_.held_back.longest(), "token"));
}

// Warns of values that the written file cannot hold. The figures were measured before it was written.
void Run::warn_of_conversion(const std::string& format, const WriteReport& report,
                             std::span<const BlockRecord> blocks) {
  for (const std::string& text : float16_warnings(*source_, report, blocks)) {
    if (told_of_float16_.insert(text).second) tracker_.warn(text);
  }
  if (report.rounded.empty() || !evaluating() || told_of_narrowing_) return;
  tracker_.warn(fmt::format(
      "{}: {} of the source, which stores {} in float32, {} written in 16 bits ({}); perplexity "
      "and KL divergence of this report were measured before that, evaluate the result for figures of it; "
      "the first: {}",
      source_->path(), counted(report.rounded.size(), "tensor"), form_for(report.rounded.size(), "it", "them"),
      form_for(report.rounded.size(), "is", "are"), format, escaped(source_->stored_name(report.rounded.front()))));
}

std::vector<std::pair<std::string, WriteReport>> Run::write(const std::string& figures_json, const std::string& place,
                                                            std::span<const BlockRecord> blocks) {
  CheckpointPlan plan;
  plan.group_size = recipe_.grid.group_size;
  plan.symmetric = recipe_.grid.symmetric;
  plan.bits = recipe_.grid.bits;
  plan.method = name_of(recipe_.method);
  plan.figures_json = figures_json;
  plan.calibration = calibration_text(texts_.record, made_from_);
  plan.evaluation = evaluated_text();
  std::map<std::string, int64_t> layer_of;
  for (size_t layer = 0; layer < layers_.size(); ++layer) {
    const BlockRecord& record = blocks[layer];
    for (const QuantizedWeight& w : layers_[layer].quantized) {
      QuantizedLinear q{w.name, w.rows, w.columns, w.grid.group_of(w.columns), "", w.grid.bits};
      for (const ScaleRecord& scale : record.scales) {
        if (scale.tap == input_name(input_of(w.slots.front().kind))) q.folded = scale.producer;
      }
      plan.quantized.push_back(std::move(q));
      layer_of[w.name] = static_cast<int64_t>(layer);
    }
    for (const std::string& name : record.changed) {
      plan.changed.push_back({name, DType::kF16});
      layer_of[name] = static_cast<int64_t>(layer);
    }
    for (const Skipped& s : layers_[layer].skipped) plan.skipped.push_back({s.name, s.reason});
  }
  std::vector<std::pair<std::string, WriteReport>> reports;
  for (const std::string& format : options_.formats) {
    const std::string folder = options_.formats.size() == 1 ? place : (fs::path(place) / format).string();
    JournalProvider provider([&](int64_t layer) { return finished_block(layer); }, layer_of);
    const auto writer = CheckpointWriter::create(format);
    reports.emplace_back(format, writer->write(*source_, plan, provider, folder, [&](int64_t done, int64_t total) {
      tracker_.enter("write", done, total);
    }));
    warn_of_conversion(format, reports.back().second, blocks);
  }
  return reports;
}

QuantizeResult Run::execute() {
  tracker_.enter("prepare", 0, 1);
  check_output(*source_, output_);
  for (const std::string& text : warnings_before_work(*source_, options_)) tracker_.warn(text);
  tracker_.warn_of(source_->warnings());
  const OutputFolder::Warn warn = [&](const std::string& text) { tracker_.warn(text); };
  try {
    folder_ = std::make_unique<OutputFolder>(output_, OutputFolder::Use::kWrite, warn);
    identity_ = run_identity(options_, recipe_, *source_);
    const Start start = decide_start(*folder_, journal_, *source_, identity_, options_, warn);
    if (start == Start::kComplete) {
      folder_->remove_journal();  // of a run that was killed after the report, while it was being removed
      return completed();
    }
    check_before_work();
    if (start == Start::kResume && finish_placing(*folder_, identity_, warn)) {
      folder_ = std::make_unique<OutputFolder>(output_, OutputFolder::Use::kWrite, warn);  // the one that is there now
      return completed();
    }
    QuantizeResult result;
    work(start, result);
    return result;
  } catch (const json::exception& e) {
    throw FormatError(fmt::format("{}: a file of the interrupted run is damaged ({}); run again with --no-resume",
                                  journal_.folder(), e.what()));
  }
}

void Run::work(Start start, QuantizeResult& result) {
  prepare(start);
  if (chooses_bits(options_)) choose_mixed_bits();
  run_blocks();
  RunFacts facts;
  if (evaluating()) {
    facts.evaluation = evaluate();
    facts.evaluation->has_reference = true;
  }
  const std::string figures =
      card_figures(facts.evaluation ? evaluation_record(*facts.evaluation) : EvaluationRecord());
  const std::string place = folder_->stage();
  for (size_t layer = 0; layer < layers_.size(); ++layer)
    facts.blocks.push_back(journal_.read_block_record(static_cast<int64_t>(layer)));
  facts.written = write(figures, place, facts.blocks);
  tracker_.enter("report", 0, 1);
  facts.model = source_->path();
  facts.output = output_;
  facts.fingerprint = run_fingerprint(identity_);
  facts.identity = identity_;
  facts.resumed_blocks = resumed_blocks_;
  facts.forward_operations = forward_operations_;
  facts.texts = &texts_;
  facts.first_rows = !stats_file_ || stats_file_->first_rows();
  facts.calibration_tokens = stats_file_ ? static_cast<int64_t>(stats_file_->tokens()) : texts_.calibration.tokens();
  facts.made_from = made_from_;
  facts.few_tokens = few_tokens_.list;
  facts.plan = plan_;
  facts.mixed = mixed_;
  for (const LayerTensors& l : layers_) facts.skipped.insert(facts.skipped.end(), l.skipped.begin(), l.skipped.end());
  for (Skipped& s : left_out_tensors(*source_)) facts.skipped.push_back(std::move(s));
  if (const std::string text = clamped_scales_warning(facts.blocks); !text.empty()) tracker_.warn(text);
  result.report = build_report(*source_, recipe_, options_, facts, tracker_);
  write_report(result.report, place);
  result.passed_gate = gate_verdict(result.report, options_.max_kl);
  source_->check_unchanged();
  folder_->place([&](const std::string& text) { tracker_.warn(text); });
}

}  // namespace

QuantizeResult quantize_model(const std::string& model, const std::string& output, const QuantizeOptions& options,
                              const Observer& observer) try {
  const ThreadCount thread_count(options.machine.threads);
  check_memory_budget(options.machine.memory_bytes);
  return Run(model, output, with_presets(options), observer).execute();
} catch (...) {
  rethrow_as_error("quantize_model");
}

}  // namespace metal_marlin

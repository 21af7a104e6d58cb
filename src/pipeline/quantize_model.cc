// quantize: the loop over blocks. Stages: prepare (texts, plan) -> per block: load, forward with statistics, scales,
// rounding, journal -> final states scored -> checkpoints -> report.
#include <fcntl.h>
#include <fmt/format.h>
#include <metal_marlin/error.h>
#include <metal_marlin/quantize.h>
#include <metal_marlin/report.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>

#include "calibrate/statistics.h"
#include "calibrate/stats_file.h"
#include "core/atomic_file.h"
#include "core/border.h"
#include "core/file_status.h"
#include "core/machine.h"
#include "core/threads.h"
#include "eval/score.h"
#include "formats/bounded_json.h"
#include "formats/text.h"
#include "model/block.h"
#include "model/model.h"
#include "pipeline/block_probe.h"
#include "pipeline/few_tokens.h"
#include "pipeline/finished_check.h"
#include "pipeline/journal.h"
#include "pipeline/left_out.h"
#include "pipeline/memory_plan.h"
#include "pipeline/mixed_bits.h"
#include "pipeline/progress.h"
#include "pipeline/quantize_block.h"
#include "pipeline/recipe.h"
#include "pipeline/run_report.h"
#include "pipeline/run_warnings.h"
#include "pipeline/sensitivity.h"
#include "pipeline/state_store.h"
#include "pipeline/texts.h"
#include "write/checkpoint_writer.h"

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int64_t kHeldBackGramTokens = 8192;  // of the held-back tokens, for each linear's output error
constexpr double kSnapshotSeconds = 120;

// Delivers the journal's blocks to a writer, one block in memory at a time.
class JournalProvider : public TensorProvider {
 public:
  // `read`: a finished block, checked.
  JournalProvider(std::function<FinishedBlock(int64_t)> read, const std::map<std::string, int64_t>& layers)
      : read_(std::move(read)), layers_(layers) {}
  QuantizedTensor quantized(const std::string& name) override {
    fetch(name);
    return block_.quantized.at(name);
  }
  OwnedTensor changed(const std::string& name) override {
    fetch(name);
    for (const OwnedTensor& t : block_.changed) {
      if (t.name != name) continue;
      OwnedTensor copy{t.name, t.dtype, t.shape, Buffer(t.bytes.size())};
      std::memcpy(copy.bytes.data(), t.bytes.data(), t.bytes.size());
      return copy;
    }
    throw FormatError(fmt::format("{}: missing in the interrupted run; run again with --no-resume", name));
  }

 private:
  void fetch(const std::string& name) {
    const int64_t layer = layers_.at(name);
    if (layer == loaded_) return;
    block_ = read_(layer);
    loaded_ = layer;
  }

  std::function<FinishedBlock(int64_t)> read_;
  const std::map<std::string, int64_t>& layers_;
  FinishedBlock block_;
  int64_t loaded_ = -1;
};

struct ReportedFile {
  std::string format;
  std::string name;
  uint64_t bytes = 0;
};

// What a report.json lists as written, names without folders: the file may be damaged or of somebody else.
std::vector<ReportedFile> reported_files(const json& report) {
  std::vector<ReportedFile> out;
  if (!report.is_object() || !report.contains("files") || !report["files"].is_array()) return out;
  for (const json& file : report["files"]) {
    const auto text = [&](const char* key) {
      return file.is_object() && file.contains(key) && file[key].is_string()
                 ? fs::path(file[key].get<std::string>()).filename().string()
                 : std::string();
    };
    const bool sized = file.is_object() && file.contains("bytes") && file["bytes"].is_number_unsigned();
    if (!text("name").empty()) out.push_back({text("format"), text("name"), sized ? file["bytes"].get<uint64_t>() : 0});
  }
  return out;
}

class Run {
 public:
  Run(const std::string& model, const std::string& output, const QuantizeOptions& options, const Observer& observer)
      : options_(options),
        output_(output),
        tracker_(observer),
        journal_(output),
        source_(open(model)),
        recipe_(make_recipe(options, *source_)) {}

  ~Run() {
    if (lock_ >= 0) close(lock_);
  }
  Run(const Run&) = delete;
  Run& operator=(const Run&) = delete;

  QuantizeResult execute();

 private:
  static std::unique_ptr<ModelSource> open(const std::string& model) {
    auto source = ModelSource::open(model);
    source->check();
    return source;
  }
  bool already_complete(uint64_t fingerprint, QuantizeResult& result);
  std::string write_report(const json& report) const;
  void lock_output();
  std::vector<fs::path> old_result() const;
  void refuse_foreign_weights() const;
  void remove_old_result() const;
  void check_before_work();
  void prepare(uint64_t fingerprint);
  void plan_tensors();
  void warn_of_unused_patterns();
  void work(uint64_t fingerprint, QuantizeResult& result);
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
  void warn_of_conversion(const std::string& format, const WriteReport& report);
  std::string evaluated_text() const;
  std::vector<std::pair<std::string, WriteReport>> write(const json& figures);
  bool evaluating() const { return !texts_.held_back.sequences.empty(); }

  const QuantizeOptions& options_;
  std::string output_;
  Tracker tracker_;
  Journal journal_;
  std::unique_ptr<ModelSource> source_;
  Recipe recipe_;
  RunTexts texts_;
  MemoryPlan plan_;
  std::vector<LayerTensors> layers_;
  std::unique_ptr<StatsFile> stats_file_;
  std::unique_ptr<StateStore> calibration_;
  std::unique_ptr<StateStore> reference_;
  std::unique_ptr<StateStore> quantized_;
  FewTokens few_tokens_;
  json mixed_;         // the report's "mixed"
  bool redo_ = false;  // the result of this very run is there, but not whole
  int lock_ = -1;
  int64_t resumed_blocks_ = 0;
  double forward_operations_ = 0;  // of the calibration stream
  double last_snapshot_ = 0;
  double snapshot_cost_ = 0;
};

bool Run::already_complete(uint64_t fingerprint, QuantizeResult& result) {
  const std::string path = (fs::path(output_) / "report.json").string();
  if (!path_exists(path)) return false;
  const std::string text = read_text_file(path);
  const json report = parse_json_or_discard(text);
  const json::json_pointer stored("/run/fingerprint");
  if (!report.is_object() || !report.contains(stored)) return false;
  if (report[stored] != json(fmt::format("{:016x}", fingerprint))) {
    throw ArgumentError(
        fmt::format("{}: holds the result of another model, version or other options; choose another folder, or "
                    "replace it with --overwrite",
                    output_));
  }
  for (const ReportedFile& file : reported_files(report)) {
    const fs::path folder = options_.formats.size() == 1 ? fs::path(output_) : fs::path(output_) / file.format;
    const fs::path written = folder / file.name;
    std::error_code code;
    if (fs::file_size(written, code) != file.bytes || code) {
      tracker_.warn(written.string() + " is missing or has another size; doing the work again");
      redo_ = true;
      return false;
    }
  }
  result.already_complete = true;
  result.passed_gate = gate_verdict(report, options_.max_kl);
  // The limit is not part of what makes a run: the report tells of the one that was asked for last.
  json judged = report;
  judged["gate"] = gate_section(report, options_.max_kl);
  if (judged["options"].is_object()) judged["options"]["max_kl"] = judged["gate"]["max_kl"];
  result.report_json = judged == report ? text : write_report(judged);
  return true;
}

// Returns the text of report.json, which comes last: with it the run is finished.
std::string Run::write_report(const json& report) const {
  std::string text = report.dump(2, ' ', false, json::error_handler_t::replace);
  write_text_file((fs::path(output_) / "report.html").string(), render_report_html(text));
  write_text_file((fs::path(output_) / "report.json").string(), text);
  return text;
}

// One run at a time: a lock on the folder itself, which ends with the process.
void Run::lock_output() {
  create_folders(output_);
  lock_ = ::open(output_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (lock_ >= 0 && flock(lock_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
    throw SystemError(fmt::format("{}: another run is writing there; wait for it, or choose another folder", output_));
  }
}

// What an earlier run wrote, as its report lists it; the report itself is the last.
std::vector<fs::path> Run::old_result() const {
  const fs::path report_path = fs::path(output_) / "report.json";
  if (!path_exists(report_path)) return {};
  std::vector<fs::path> paths;
  const json report = parse_json_or_discard(read_text_file(report_path.string()));
  const auto formats = "/options/formats"_json_pointer;
  const bool folders = report.is_object() && report.contains(formats) && report[formats].size() > 1;
  for (const ReportedFile& file : reported_files(report)) {
    paths.push_back((folders ? fs::path(output_) / file.format : fs::path(output_)) / file.name);
  }
  paths.push_back(fs::path(output_) / "report.html");
  paths.push_back(report_path);
  return paths;
}

// Weights that no run of ours wrote are never removed.
void Run::refuse_foreign_weights() const {
  const std::vector<fs::path> own = old_result();
  for (const fs::path& entry : entries_of(output_)) {
    const std::string name = entry.filename().string();
    if (!name.ends_with(".safetensors") && !name.ends_with(".gguf") && !name.ends_with(".bin")) continue;
    if (std::find(own.begin(), own.end(), fs::path(output_) / name) != own.end()) continue;
    throw ArgumentError(
        fmt::format("{}: holds {}, which no run of this program wrote; engines would load it too: remove it, or choose "
                    "another folder",
                    output_, name));
  }
}

// So that nothing of it stands beside the new result. Only once nothing can be refused any more.
void Run::remove_old_result() const {
  std::error_code code;
  for (const fs::path& path : old_result()) {
    fs::remove(path, code);
    if (path.parent_path() != fs::path(output_) && fs::is_empty(path.parent_path(), code))
      fs::remove(path.parent_path(), code);
  }
}

// What can be known to fail before anything is written or sampled.
void Run::check_before_work() {
  const bool statistics = from_statistics(options_.calibration);
  require_judge(options_);
  if (statistics) {
    stats_file_ = std::make_unique<StatsFile>(options_.calibration.calibration.front(), *source_, needs_gram(recipe_));
  }
  plan_tensors();
  if (chooses_bits(options_)) check_reachable(sensitive_items(layers_, recipe_, options_), options_);
  warn_of_unused_patterns();
  // NaN and infinity are found before anything is written; a run that goes on has looked already.
  if (!journal_.exists()) {
    const auto tensors = source_->tensors();
    for (size_t i = 0; i < tensors.size(); ++i) {
      tracker_.enter("check", static_cast<int64_t>(i), static_cast<int64_t>(tensors.size()));
      source_->check_finite(tensors[i].name);
    }
  }
  if (preparation_is_long(options_.calibration)) {
    const TextSizes sizes = expected_sizes(*source_, options_);
    plan_memory(*source_, recipe_, options_, sizes.calibration, sizes.held_back, output_);
  }
}

void Run::prepare(uint64_t fingerprint) {
  const bool resuming = options_.resume && journal_.fingerprint() == fingerprint;
  if (journal_.exists() && !resuming) {
    tracker_.warn(options_.resume ? "an interrupted run of another model, version or other options is in " + output_ +
                                        "; starting over"
                                  : std::string("starting over, as --no-resume says"));
  }
  if (!resuming) {
    if (!journal_.exists() && !options_.overwrite && !redo_ && path_exists(output_) && !is_empty_folder(output_) &&
        !path_exists(fs::path(output_) / ".metal-marlin")) {
      throw ArgumentError(
          fmt::format("{}: expected an empty or new folder; use --overwrite to write into it", output_));
    }
  }
  const size_t before = tracker_.warnings().size();
  const auto make_texts = [&] {
    texts_ = prepare_texts(*source_, options_, tracker_, (fs::path(journal_.folder()) / "scratch-pool").string());
  };
  const auto plan = [&] {
    plan_ = plan_memory(*source_, recipe_, options_, texts_.calibration.tokens(), texts_.held_back.tokens(), output_);
  };
  // A text that is at fault, or a budget that cannot be kept, leaves everything as it was. Making or selecting text
  // takes long: such a run begins before it is there, with what is known of it planned in check_before_work.
  const bool ready = !resuming && !preparation_is_long(options_.calibration);
  if (ready) {
    make_texts();
    plan();
  }
  if (!resuming) {
    if (options_.overwrite || redo_) refuse_foreign_weights();
    journal_.begin(fingerprint);
  }
  const std::string texts_path = (fs::path(journal_.folder()) / "texts.json").string();
  if (!resuming || !path_exists(texts_path) || !journal_.read_tokens(texts_.calibration, texts_.held_back)) {
    if (!ready) make_texts();
    const std::vector<std::string> warnings(tracker_.warnings().begin() + static_cast<int64_t>(before),
                                            tracker_.warnings().end());
    // First: tokens without it are not taken.
    write_text_file(texts_path, json{{"held_back_source", texts_.held_back_source},
                                     {"calibration", texts_.calibration_facts},
                                     {"warnings", warnings}}
                                    .dump(-1, ' ', false, json::error_handler_t::replace));
    journal_.write_tokens(texts_.calibration, texts_.held_back);
  } else {
    const json j = parse_json_or_discard(read_text_file(texts_path));
    if (j.is_object()) {
      texts_.held_back_source = j.value("held_back_source", std::string());
      texts_.calibration_facts = j.value("calibration", std::string("{}"));
      if (!parse_json_or_discard(texts_.calibration_facts).is_object()) {
        throw FormatError(
            fmt::format("{}: calibration: expected a JSON object; run again with --no-resume", texts_path));
      }
      for (const json& text : j.value("warnings", json::array())) tracker_.warn(text.get<std::string>());
    }
  }
  if (!ready) plan();
  if (stats_file_) {
    texts_.calibration_facts = statistics_facts(options_.calibration, *stats_file_);
    if (recipe_.first_token_weight != 1 && needs_gram(recipe_) && !stats_file_->first_rows()) {
      tracker_.warn(
          fmt::format("{}: the inputs of first tokens are not in it, so they count once, not {} times: expect less "
                      "accuracy, or calibrate again",
                      stats_file_->path(), recipe_.first_token_weight));
    }
  }
  const auto tokens_of = [&](int64_t layer, LinearInput input) {
    return stats_file_ ? stats_file_->tokens(layer, input) : static_cast<uint64_t>(texts_.calibration.tokens());
  };
  few_tokens_ = find_few_tokens(layers_, recipe_, tokens_of, stats_file_ ? 0 : options_.calibration.sequence_length,
                                options_.calibration.select > 0);
  if (!few_tokens_.warning.empty()) tracker_.warn(few_tokens_.warning);
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

void Run::warn_of_unused_patterns() {
  for (const std::string& text : unused_pattern_warnings(options_, layers_)) tracker_.warn(text);
}

// Bits of each linear by what its quantization costs: measured once in a run, so that it goes on with the same choice.
void Run::choose_mixed_bits() {
  const std::string path = (fs::path(journal_.folder()) / "sensitivity.json").string();
  Sensitivity sensitivity;
  sensitivity.items = sensitive_items(layers_, recipe_, options_);
  if (const std::string text = sensitivity_warning(options_, std::ssize(texts_.calibration.sequences)); !text.empty())
    tracker_.warn(text);
  if (!path_exists(path) || !take_measured(parse_json_or_discard(read_text_file(path)), sensitivity)) {
    const std::string scratch = (fs::path(journal_.folder()) / "scratch-sensitivity").string();
    sensitivity = measure_sensitivity(*source_, options_, recipe_, layers_, texts_.calibration, scratch, tracker_);
    write_text_file(path, to_json(sensitivity).dump());
  }
  BitsChoice choice;
  try {
    choice = choose_bits(sensitivity, options_);
  } catch (const ArgumentError&) {
    journal_.remove();  // other options are another run: this one will not go on
    throw;
  }
  mixed_ = mixed_section(sensitivity, choice, options_);
  recipe_.chosen_grids = grids_of(sensitivity, choice);
  plan_tensors();
}

// The pass lives for one layer and one stream: its scratch memory is gone when the block is quantized.
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

// Now and then, so that resuming does not replay all blocks; rarely enough that writing takes below a tenth of the
// time.
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
  check_finished(*source_, layer, layers_[static_cast<size_t>(layer)], journal_.read_block_report(layer), block,
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
  // A bf16 stream does not show what the block makes of its input exactly; the check then runs the source block itself.
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
  journal_.write_block(layer, result.finished, result.report);
  for (const LinearSlot& slot : source_->linears(layer)) source_->release(slot.weight);
}

void Run::run_blocks() {
  const int64_t layers = source_->config().num_hidden_layers;
  const int64_t finished = std::min(journal_.finished_blocks(), layers);
  resumed_blocks_ = finished;
  for (int64_t layer = 0; layer < finished; ++layer)
    finished_block(layer);  // damage is told before the work, not after it
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
  Metrics metrics;
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

// For the model card, which others read: the file without its folder, and how much of it.
std::string Run::evaluated_text() const {
  if (!evaluating()) return {};
  const std::string& file = options_.evaluation.text;
  const std::string source =
      file.empty() ? "held-back part of the calibration text" : fs::path(file).filename().string();
  const size_t chunks = texts_.held_back.sequences.size();
  return fmt::format("{}: {} chunk{} of {} tokens", source, chunks, chunks == 1 ? "" : "s", texts_.held_back.longest());
}

// What the file holds in place of the source's values; the figures were measured before.
void Run::warn_of_conversion(const std::string& format, const WriteReport& report) {
  for (const ClampedTensor& c : report.clamped) {
    if (c.clamped > 0)
      tracker_.warn(
          fmt::format("{}: {} values exceed float16 and were clamped ({})", escaped(c.name), c.clamped, format));
  }
  if (report.rounded.empty() || !evaluating()) return;
  tracker_.warn(
      fmt::format("{}: {} tensors of the source, which stores them in float32, are written in 16 bits ({}); perplexity "
                  "and KL divergence of this report were measured before that, evaluate the result for figures of it; "
                  "the first: {}",
                  source_->path(), report.rounded.size(), format, escaped(report.rounded.front())));
}

std::vector<std::pair<std::string, WriteReport>> Run::write(const json& figures) {
  CheckpointPlan plan;
  plan.group_size = recipe_.grid.group_size;
  plan.symmetric = recipe_.grid.symmetric;
  plan.bits = recipe_.grid.bits;
  plan.method = recipe_.method;
  plan.figures_json = figures.dump();
  plan.calibration = calibration_text(json::parse(texts_.calibration_facts, nullptr, false));
  plan.evaluation = evaluated_text();
  std::map<std::string, int64_t> layer_of;
  for (size_t layer = 0; layer < layers_.size(); ++layer) {
    const json report = journal_.read_block_report(static_cast<int64_t>(layer));
    for (const QuantizedWeight& w : layers_[layer].quantized) {
      QuantizedLinear q{w.name, w.rows, w.columns, w.grid.group_of(w.columns), "", w.grid.bits};
      for (const json& scale : report.at("scales")) {
        if (scale.at("tap") == input_name(input_of(w.slots.front().kind)))
          q.folded = scale.value("producer", std::string());
      }
      plan.quantized.push_back(std::move(q));
      layer_of[w.name] = static_cast<int64_t>(layer);
    }
    for (const json& name : report.at("changed")) {
      plan.changed.push_back({name.get<std::string>(), DType::kF16});
      layer_of[name.get<std::string>()] = static_cast<int64_t>(layer);
    }
    for (const Skipped& s : layers_[layer].skipped) plan.skipped.push_back({s.name, s.reason});
  }
  std::vector<std::pair<std::string, WriteReport>> reports;
  for (const std::string& format : options_.formats) {
    const std::string folder = options_.formats.size() == 1 ? output_ : (fs::path(output_) / format).string();
    JournalProvider provider([&](int64_t layer) { return finished_block(layer); }, layer_of);
    const auto writer = CheckpointWriter::create(format);
    reports.emplace_back(format, writer->write(*source_, plan, provider, folder, [&](int64_t done, int64_t total) {
      tracker_.enter("write", done, total);
    }));
    warn_of_conversion(format, reports.back().second);
  }
  return reports;
}

QuantizeResult Run::execute() {
  QuantizeResult result;
  tracker_.enter("prepare", 0, 1);
  check_output(*source_, output_);
  for (const std::string& text : warnings_before_work(*source_, options_, recipe_)) tracker_.warn(text);
  tracker_.warn_of(source_->warnings());
  const uint64_t fingerprint = run_fingerprint(options_, recipe_, *source_);
  if (!options_.overwrite && !journal_.exists() && already_complete(fingerprint, result)) {
    if (path_exists(journal_.folder())) journal_.remove();  // killed after the report, while it was being removed
    return result;
  }
  check_before_work();
  lock_output();
  const bool resuming = journal_.exists();
  try {
    work(fingerprint, result);
  } catch (const json::exception& e) {
    if (!resuming) throw;
    throw FormatError(fmt::format("{}: a file of the interrupted run is damaged ({}); run again with --no-resume",
                                  journal_.folder(), e.what()));
  }
  return result;
}

void Run::work(uint64_t fingerprint, QuantizeResult& result) {
  prepare(fingerprint);
  if (chooses_bits(options_)) choose_mixed_bits();
  remove_old_result();
  run_blocks();
  RunFacts facts;
  if (evaluating()) {
    facts.evaluation = evaluate();
    facts.evaluation->has_reference = true;
  }
  const json figures = facts.evaluation ? model_figures(*facts.evaluation) : json::object();
  facts.written = write(figures);
  tracker_.enter("report", 0, 1);
  facts.model = source_->path();
  facts.output = output_;
  facts.fingerprint = fingerprint;
  facts.resumed_blocks = resumed_blocks_;
  facts.forward_operations = forward_operations_;
  facts.texts = &texts_;
  facts.first_rows = !stats_file_ || stats_file_->first_rows();
  facts.calibration_tokens = stats_file_ ? static_cast<int64_t>(stats_file_->tokens()) : texts_.calibration.tokens();
  facts.few_tokens_json = few_tokens_.list_json;
  facts.plan = plan_;
  facts.mixed = mixed_;
  for (const LayerTensors& l : layers_) facts.skipped.insert(facts.skipped.end(), l.skipped.begin(), l.skipped.end());
  for (Skipped& s : left_out_tensors(*source_)) facts.skipped.push_back(std::move(s));
  for (size_t layer = 0; layer < layers_.size(); ++layer)
    facts.blocks.push_back(journal_.read_block_report(static_cast<int64_t>(layer)));
  const json report = build_report(*source_, recipe_, options_, facts, tracker_);
  result.report_json = write_report(report);
  result.passed_gate = gate_verdict(report, options_.max_kl);
  journal_.remove();
}

}  // namespace

QuantizeResult quantize_model(const std::string& model, const std::string& output, const QuantizeOptions& options,
                              const Observer& observer) try {
  const ThreadCount thread_count(options.machine.threads);
  return Run(model, output, with_presets(options), observer).execute();
} catch (...) {
  rethrow_as_error("quantize_model");
}

}  // namespace metal_marlin

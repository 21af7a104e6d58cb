// calibrate: activation statistics into an .npz, or their squares into llama.cpp's imatrix, without quantizing.
#include <fmt/format.h>
#include <metal_marlin/error.h>
#include <metal_marlin/quantize.h>

#include <cstring>
#include <filesystem>
#include <optional>

#include "core/border.h"
#include "core/counted.h"
#include "core/files/atomic_file.h"
#include "core/files/file_status.h"
#include "core/machine.h"
#include "core/progress.h"
#include "core/threads.h"
#include "formats/npz.h"
#include "model/layer_loop.h"
#include "model/stream.h"
#include "options/tables.h"
#include "plan/memory_plan.h"
#include "recipe/budget.h"
#include "recipe/ignored_options.h"
#include "recipe/recipe.h"
#include "recipe/text_options.h"
#include "report/render/report_words.h"
#include "statistics/imatrix.h"
#include "statistics/model_identity.h"
#include "statistics/statistics.h"
#include "statistics/stats_file.h"
#include "text/texts.h"

namespace metal_marlin {
namespace {

// Raw inputs of a layer, [sequences, length, features], once per weight that has one.
class ActivationKeeper {
 public:
  ActivationKeeper(const ModelSource& source, int64_t layer, int64_t sequences, int64_t length) {
    std::array<bool, kLinearInputs> seen{};
    for (const LinearSlot& slot : source.linears(layer)) {
      const auto t = static_cast<size_t>(input_of(slot.kind));
      if (seen[t]) continue;
      seen[t] = true;
      const auto bytes = static_cast<size_t>(sequences * length * slot.columns) * sizeof(float);
      arrays_[t] = OwnedTensor{slot.weight, DType::kF32, {sequences, length, slot.columns}, Buffer(bytes)};
    }
  }
  void add(LinearInput input, const float* x, int64_t rows, int64_t features) {
    OwnedTensor& array = arrays_[static_cast<size_t>(input)];
    size_t& at = filled_[static_cast<size_t>(input)];
    const size_t bytes = static_cast<size_t>(rows * features) * sizeof(float);
    std::memcpy(array.bytes.data() + at, x, bytes);
    at += bytes;
  }
  void write_to(NpzWriter& writer) const {
    for (const OwnedTensor& a : arrays_) writer.add(a.view());
  }

 private:
  std::array<OwnedTensor, kLinearInputs> arrays_;
  std::array<size_t, kLinearInputs> filled_{};
};

// Statistics take long to make, and another .npz may be anybody's.
void refuse_to_replace(const std::string& output, bool overwrite) {
  if (!path_exists(output)) return;
  if (!overwrite) {
    throw ArgumentError(
        "output",
        fmt::format("--output {}: expected a new file, found one; choose another name, or replace statistics with "
                    "--overwrite",
                    output));
  }
  try {
    if (is_imatrix_name(output) ? is_imatrix(output) : is_statistics(NpzFile(output))) return;
  } catch (const FormatError&) {
  }
  throw ArgumentError(
      "output",
      fmt::format("--output {}: expected a new file or statistics that this command wrote, found another file; move it "
                  "away, or choose another name",
                  output));
}

// "wiki.txt, c4.txt": of the texts, without their folders.
std::string file_names_of(const CalibrationOptions& options) {
  std::string names;
  for (const std::string& source : options.calibration)
    names += (names.empty() ? "" : ", ") + std::filesystem::path(source).filename().string();
  return names;
}

}  // namespace

CalibrateResult calibrate_model(const std::string& model, const std::string& output, const CalibrationOptions& options,
                                const MachineOptions& machine, bool gram, bool keep_activations,
                                const Observer& observer, bool overwrite) try {
  const ThreadCount thread_count(machine.threads);
  check_memory_budget(machine.memory_bytes);
  const bool imatrix = is_imatrix_name(output);
  if (std::filesystem::path(output).extension() != ".npz" && !imatrix) {
    throw ArgumentError("output", fmt::format("--output {}: expected a name that ends in .npz, by which quantize knows "
                                              "statistics, or in .gguf for llama.cpp's imatrix",
                                              output));
  }
  if (imatrix && keep_activations) {
    throw ArgumentError("keep-activations", fmt::format("--keep-activations: an imatrix ({}) has no place for them; "
                                                        "write statistics (.npz)",
                                                        output));
  }
  Tracker tracker(observer);
  tracker.enter("prepare", 0, 1);
  const auto source = ModelSource::open(model);
  source->check();
  QuantizeOptions q;
  q.calibration = options;
  q.machine = machine;
  q.evaluation.text = "none";
  q.builtin_share = 0;  // a share is for quantize_model: here the sources are what they say
  check_sizes(q);
  machine_options().check_ranges(machine);
  if (from_statistics(options)) {
    throw ArgumentError("calibration",
                        fmt::format("--calibration {}: expected a text or self: statistics are what this command makes",
                                    sources_text(options)));
  }
  require_regular_file_name(output);
  refuse_to_replace(output, overwrite);
  std::optional<NpzWriter> writer;
  if (!imatrix) writer.emplace(output);  // now, because it can fail
  ImatrixWriter squares(*source);
  if (const std::string text = ignored_options_warning(ignored_options(options)); !text.empty()) tracker.warn(text);
  tracker.warn_of(source->warnings());
  const RunTexts texts = prepare_texts(*source, q, tracker, output + ".scratch");
  const ModelConfig& config = source->config();
  const auto sequences = static_cast<int64_t>(texts.calibration.sequences.size());
  if (keep_activations) {
    uint64_t bytes = 0;
    std::array<bool, kLinearInputs> seen{};
    for (const LinearSlot& slot : source->linears(0)) {
      bool& s = seen[static_cast<size_t>(input_of(slot.kind))];
      if (!s) bytes += static_cast<uint64_t>(texts.calibration.tokens() * slot.columns) * sizeof(float);
      s = true;
    }
    const uint64_t budget = memory_budget(machine);
    if (bytes > budget / 2) {
      throw SystemError(
          fmt::format("--keep-activations: the raw activations of {} take {} MiB per layer, more than half of "
                      "the memory allowed "
                      "({} MiB); use fewer --samples",
                      counted(texts.calibration.tokens(), "token"), bytes >> 20, budget >> 20));
    }
  }
  const bool spill = states_spill(*source, machine, texts.calibration.tokens());
  StreamOptions stream_options;
  stream_options.precision = statistics_precision(machine.precision);
  if (spill) stream_options.scratch = output + ".scratch";
  Stream stream(*source, texts.calibration.lengths(), stream_options);
  stream.embed(texts.calibration);
  TextRecord text = texts.record;
  publish(text, options.calibration);  // the file may be passed on
  if (writer) {
    writer->add(identity_array(identify_model(*source)).view());
    writer->add(calibration_array(text).view());
  }
  const LayerLoop loop{.stage = "calibrate", .layers = config.num_hidden_layers, .work_after = 1};
  for_each_layer(loop, tracker, [&](int64_t layer) {
    const bool whole = gram && !imatrix;
    StatsCollector collector(whole, stream.precision(), whole ? stream.lengths() : std::vector<int64_t>());
    std::unique_ptr<ActivationKeeper> keeper;
    if (keep_activations)
      keeper = std::make_unique<ActivationKeeper>(*source, layer, sequences, texts.calibration.longest());
    const auto hook = [&](LinearInput input, const float* x, int64_t rows, int64_t features) {
      collector.add(input, x, rows, features);
      if (keeper) keeper->add(input, x, rows, features);
    };
    stream.pass_source(layer, hook);
    const auto stats = collector.finish();
    if (imatrix) {
      squares.add(layer, stats);
      return;
    }
    for (const OwnedTensor& a : stats_arrays(layer, stats)) writer->add(a.view());
    if (keeper) keeper->write_to(*writer);
  });
  tracker.enter("write", 0, 1);
  if (imatrix) {
    squares.write(output, {file_names_of(options)}, sequences, texts.calibration.longest());
  } else {
    writer->commit();
  }
  tracker.enter("done", 1, 1);
  return {output, sequences, texts.calibration.tokens(), tracker.seconds()};
} catch (...) {
  rethrow_as_error("calibrate_model");
}

}  // namespace metal_marlin

// --dry-run: what quantize_model would do.
#include <fmt/format.h>
#include <metal_marlin/error.h>
#include <metal_marlin/quantize.h>
#include <metal_marlin/report.h>

#include <algorithm>
#include <map>
#include <span>

#include "core/border.h"
#include "core/machine.h"
#include "core/progress.h"
#include "core/threads.h"
#include "kernels/gemm.h"
#include "mixed/mixed_bits.h"
#include "mixed/sensitivity.h"
#include "plan/left_out.h"
#include "plan/memory_plan.h"
#include "plan/most_bytes.h"
#include "plan/run_warnings.h"
#include "recipe/budget.h"
#include "recipe/format_grid.h"
#include "recipe/ignored_options.h"
#include "recipe/make_recipe.h"
#include "recipe/option_values.h"
#include "recipe/presets.h"
#include "recipe/recipe.h"
#include "recipe/tensor_plan.h"
#include "report/gate.h"
#include "report/run_report.h"
#include "report/size.h"
#include "report/size_parts.h"
#include "run/output/output_checks.h"
#include "run/output/output_folder.h"
#include "run/prepare_run.h"
#include "run/resume.h"
#include "run/run_identity.h"
#include "text/select_pool.h"
#include "text/texts.h"
#include "write/checkpoint_writer.h"

namespace metal_marlin {
namespace {

// The codes with which the command ends.
constexpr int kStoppedByFault = 1;
constexpr int kStoppedByUsage = 2;
constexpr int kMissedGate = 4;

// Multiply-adds of a token in the linears of all blocks, and in the Gram matrices of the inputs (symmetric half).
struct Work {
  double forward = 0;
  double gram = 0;
};

Work work_per_token(const ModelSource& source) {
  Work work;
  std::array<double, kLinearInputs> in_features{};
  for (const LinearSlot& slot : source.linears(0)) {
    work.forward += static_cast<double>(slot.rows) * static_cast<double>(slot.columns);
    in_features[static_cast<size_t>(input_of(slot.kind))] = static_cast<double>(slot.columns);
  }
  for (const double k : in_features) work.gram += k * k / 2;
  const auto layers = static_cast<double>(source.config().num_hidden_layers);
  return {work.forward * layers, work.gram * layers};
}

// Seconds from the machine's measured rate of matrix products. The factors allow for what is not a product.
std::map<std::string, double> estimate_time(const ModelSource& source, const Recipe& recipe,
                                            const QuantizeOptions& options, const TextSizes& sizes) {
  const double rate = gemm_rate(MatmulPrecision::kF32) * 1e9 * threads();
  const double statistics_rate =
      recipe.precision == MatmulPrecision::kBF16 ? gemm_rate(MatmulPrecision::kBF16) * 1e9 * threads() : rate;
  const Work work = work_per_token(source);
  const auto calibration = static_cast<double>(sizes.calibration);
  const auto held_back = static_cast<double>(sizes.held_back);
  const double forward = 2 * work.forward * calibration / statistics_rate / 0.7;
  const double statistics = 2 * work.gram * calibration / rate / 0.75;
  const double head =
      2.0 * static_cast<double>(source.config().hidden_size) * static_cast<double>(source.config().vocab_size);
  const double evaluate = held_back * (2 * (2 * work.forward + head) + 2 * work.gram) / rate / 0.7;
  double rounding = 0;
  for (const LinearSlot& slot : source.linears(0)) {
    const auto n = static_cast<double>(slot.rows);
    const auto k = static_cast<double>(slot.columns);
    rounding += 4 * n * k * k;  // errors before and after
    if (recipe.scales != ScaleMethod::kNone) rounding += 20 * 256 * k * k;
    if (recipe.rounding.feedback) rounding += n * k * k + k * k * k;
    if (recipe.rounding.refine) rounding += 9 * n * k * k;
    if (recipe.ranges == RangeChoice::kGram || recipe.clip) rounding += 25 * 64 * n * k;
  }
  rounding *= static_cast<double>(source.config().num_hidden_layers) / rate / 0.5;
  std::map<std::string, double> time = {
      {"forward", forward}, {"statistics", statistics}, {"search_and_round", rounding}, {"evaluate", evaluate}};
  double self = 0;
  if (sizes.self_made > 0)
    self = (2 * work.forward + head) * static_cast<double>(sizes.self_made) / statistics_rate / 0.3;
  time["self_text"] = self;
  const double blocks =
      static_cast<double>(profiled_blocks(source)) / static_cast<double>(source.config().num_hidden_layers);
  const double select = 2 * work.forward * static_cast<double>(sizes.pool) * blocks / statistics_rate / 0.7;
  time["select"] = select;
  double sensitivity = 0;
  if (chooses_bits(options)) {
    // A stream for each input of each block, from there to the last: half of the blocks on average; then the head. And
    // the quantization itself on a part of the text.
    const auto streams = static_cast<double>(source.config().num_hidden_layers * kLinearInputs + 2);
    const auto tokens = static_cast<double>(options.sensitivity_tokens);
    const double part =
        calibration > 0 ? std::min(1.0, static_cast<double>(kSensitivityStatistics) / calibration) : 1.0;
    sensitivity = streams * tokens * (work.forward + head) / rate / 0.7 + rounding + part * (forward + statistics);
  }
  time["sensitivity"] = sensitivity;
  time["total"] = forward + statistics + rounding + evaluate + self + select + sensitivity;
  return time;
}

// What each format will take: the most where the run chooses the bits.
std::vector<PlannedSize> planned_sizes(const ModelSource& source, const QuantizeOptions& options, const Recipe& recipe,
                                       const std::vector<LayerTensors>& layers) {
  std::vector<PlannedSize> sizes;
  for (const std::string& format : options.formats) {
    const CheckpointWriter writer = CheckpointWriter::of(format);
    PlannedSize& size = sizes.emplace_back();
    size.format = format;
    if (chooses_bits(options)) {
      const MostBytes most = most_bytes(source, options, recipe, layers, writer);
      size.bytes = most.linears;
      for (const auto& [name, bytes] : most.kept) size.bytes += bytes;
      size.parts = size_parts(source, most.kept, most.linears);
    } else {
      const WriteReport report = writer.forecast(source, planned_checkpoint(source, recipe, layers));
      size.bytes = report.quantized_bytes + report.kept_bytes;
      size.parts = size_parts(source, report.kept, report.quantized_bytes);
    }
  }
  return sizes;
}

// Bytes of codes, scales and zeros, whatever the measurement chooses.
uint64_t most_quantized_bytes(const QuantizeOptions& options, const Recipe& recipe,
                              const std::vector<LayerTensors>& layers) {
  double weights = 0;
  uint64_t most = 0;
  for (const SensitiveItem& item : sensitive_items(layers, recipe, options)) {
    weights += static_cast<double>(item.weights);
    uint64_t bits = 0;
    for (const BitsOption& option : item.options) bits = std::max(bits, option.bits);
    most += bits / 8;
  }
  if (options.target_bits) most = std::min(most, static_cast<uint64_t>(weights * *options.target_bits / 8));
  return most;
}

// What the run would find in its output folder. Throws as it would.
void look_at_output(const RunJob& job, const Recipe& recipe, Plan& plan, Tracker& tracker) {
  const OutputFolder::Warn warn = [&](const std::string& text) { tracker.warn(text); };
  const OutputFolder folder(job.output, OutputFolder::Use::kLook, warn);
  const Journal journal(job.output);
  const Start start = !folder.exists() ? Start::kFresh
                                       : decide_start(folder, journal, job.source,
                                                      run_identity(job.options, recipe, job.source), job.options, warn);
  if (start != Start::kComplete) require_place_for(job.output);
  plan.start = start_name(start);
  if (start == Start::kResume) plan.finished_blocks = journal.finished_blocks();
  if (start == Start::kComplete && !gate_verdict(finished_report(folder.folder()), job.options.max_kl))
    plan.exit_code = kMissedGate;
}

// What becomes codes, and what stays in 16 bits and why.
void list_tensors(const ModelSource& source, const std::vector<LayerTensors>& layers, Plan& plan) {
  for (const LayerTensors& layer : layers) {
    for (const QuantizedWeight& w : layer.quantized) {
      plan.quantized.push_back({w.name, {w.rows, w.columns}, w.grid.bits});
      const auto n = static_cast<uint64_t>(w.rows) * static_cast<uint64_t>(w.columns);
      const auto bits = static_cast<uint64_t>(w.grid.bits);
      plan.quantized_weights += n;
      plan.quantized_bytes += n * bits / 8 + n / static_cast<uint64_t>(w.grid.group_of(w.columns)) * (16 + bits) / 8;
    }
    for (const Skipped& s : layer.skipped) plan.skipped.push_back({s.name, s.reason});
  }
  for (const Skipped& s : left_out_tensors(source)) plan.skipped.push_back({s.name, s.reason});
}

// Whether the held-back text is cut into chunks of --context tokens.
bool evaluates_chunks(const QuantizeOptions& options) {
  const auto ignored = ignored_options(options);
  return std::none_of(ignored.begin(), ignored.end(), [](const IgnoredOption& o) { return o.name == "context"; });
}

}  // namespace

Plan plan_quantization(const std::string& model, const std::string& output, const QuantizeOptions& given,
                       const Observer& observer) try {
  const QuantizeOptions options = settle_formats(given);
  const ThreadCount thread_count(options.machine.threads);
  check_memory_budget(options.machine.memory_bytes);
  require_judge(options);
  const auto source = ModelSource::open(model);
  source->check();
  const Recipe recipe = make_recipe(options, *source);
  Tracker tracker(observer);
  // In the order of the run, whose warnings these are.
  Plan plan;
  const auto stop = [&](const std::string& why, int code) {
    if (!plan.stops.empty()) return;
    plan.stops = why;
    plan.exit_code = code;
  };
  const auto with_stops = [&](const auto& look) {
    try {
      look();
    } catch (const Interrupted&) {
      throw;
    } catch (const ArgumentError& e) {
      stop(e.what(), kStoppedByUsage);
    } catch (const Error& e) {
      stop(e.what(), kStoppedByFault);
    }
  };
  with_stops([&] { check_output(*source, output); });
  for (const std::string& text : warnings_before_work(*source, options)) tracker.warn(text);
  tracker.warn_of(source->warnings());
  const RunJob job{*source, options, output};
  with_stops([&] { look_at_output(job, recipe, plan, tracker); });
  const RunStatistics statistics = open_statistics(job, recipe);
  const std::vector<LayerTensors> layers = planned_layers(*source, options, recipe);
  require_quantized(*source, layers);
  list_tensors(*source, layers, plan);
  if (chooses_bits(options)) {
    check_reachable(sensitive_items(layers, recipe, options), options);
    // Which linears get how many bits is known after the measurement alone: the most.
    plan.quantized_bytes = most_quantized_bytes(options, recipe, layers);
  }
  for (const std::string& text : unused_pattern_warnings(options, layers)) tracker.warn(text);
  const TextSizes sizes = expected_sizes(*source, options, &tracker);
  // Texts are cut in sequences and chunks of full length; what the model makes itself to be held back has that of a
  // sequence.
  const int64_t evaluated = std::min(
      sizes.held_back, evaluates_chunks(options) ? options.evaluation.context : options.calibration.sequence_length);
  warn_beyond_positions(*source, std::max(std::min(sizes.calibration, options.calibration.sequence_length), evaluated),
                        tracker);
  warn_of_caveats(job, recipe, layers, statistics, sizes.calibration, sizes.held_back > 0, tracker);
  if (chooses_bits(options)) {
    const std::string text = sensitivity_warning(options, sizes.calibration / options.calibration.sequence_length);
    if (!text.empty()) tracker.warn(text);
  }
  plan.model = source->path();
  plan.output = output;
  plan.options = option_values(options, recipe);
  plan.calibration_tokens = statistics.file ? statistics.file->tokens() : static_cast<uint64_t>(sizes.calibration);
  plan.builtin_tokens = sizes.builtin;
  plan.held_back_tokens = sizes.held_back;
  if (names_text(options.evaluation)) plan.evaluation_text = options.evaluation.text;
  plan.sizes = planned_sizes(*source, options, recipe, layers);
  plan.source_bytes = model_size(*source).bytes;
  const MemoryRecord memory = measure_memory(*source, recipe, options, sizes.calibration, sizes.held_back);
  for (const std::string& shortage : {memory_shortage(memory, options), disk_shortage(memory, output)}) {
    if (plan.start == "complete") break;  // that run has been made
    if (!shortage.empty()) stop(shortage, kStoppedByFault);
  }
  // Norms and biases are small; all weights take a pass that is the run's alone.
  if (plan.start == "fresh" || plan.start == "redo") {
    for (const CheckpointTensor& t : source->tensors()) {
      if (t.shape.size() < 2) with_stops([&] { source->check_finite(t.name); });
    }
  }
  plan.memory = memory;
  plan.disk_free_bytes = free_disk_bytes(output);
  plan.memory_budget = memory_budget(options.machine);
  plan.seconds = estimate_time(*source, recipe, options, sizes);
  plan.machine = {cpu_name(), threads(), gemm_rate(MatmulPrecision::kF32)};
  plan.warnings = tracker.warnings();
  return plan;
} catch (...) {
  rethrow_as_error("plan_quantization");
}

}  // namespace metal_marlin

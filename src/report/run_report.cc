#include "report/run_report.h"

#include <fmt/format.h>
#include <metal_marlin/version.h>

#include <algorithm>
#include <ctime>
#include <filesystem>
#include <set>

#include "core/machine.h"
#include "core/threads.h"
#include "kernels/blas_kernels.h"
#include "kernels/gemm.h"
#include "mixed/mixed_bits.h"
#include "recipe/option_values.h"
#include "recipe/tensor_plan.h"
#include "recipe/text_options.h"
#include "report/gate.h"
#include "report/render/report_words.h"
#include "report/report_check.h"
#include "report/size.h"
#include "report/size_parts.h"
#include "tokenizer/tokenizer.h"

namespace metal_marlin {

namespace {

ModelRecord model_record(const ModelSource& source, const RunFacts& facts) {
  const WriteReport& first = facts.written.front().second;
  const ModelSize before = model_size(source);
  ModelRecord model;
  if (facts.evaluation) static_cast<EvaluationRecord&>(model) = *facts.evaluation;
  model.bits_per_weight = first.bits_per_weight;
  model.bytes = static_cast<int64_t>(first.quantized_bytes + first.kept_bytes);
  if (first.quantized_weights > 0) {
    model.linears_bits_per_weight =
        8.0 * static_cast<double>(first.quantized_bytes) / static_cast<double>(first.quantized_weights);
  }
  for (const auto& [format, written] : facts.written) {
    model.formats.push_back(
        {format, static_cast<int64_t>(written.quantized_bytes + written.kept_bytes), written.bits_per_weight});
  }
  model.parts = size_parts(source, first.kept, first.quantized_bytes);
  model.parameters = static_cast<int64_t>(before.parameters);
  model.source_bytes = static_cast<int64_t>(before.bytes);
  model.source_bits_per_weight = before.bits_per_weight();
  return model;
}

// The calibration stream's forward pass beside the rate of plain matrix products, measured here and now.
std::optional<ForwardRecord> forward_record(const Recipe& recipe, const RunFacts& facts, double cpu_seconds) {
  if (facts.forward_operations <= 0 || cpu_seconds <= 0) return std::nullopt;
  const bool bf16 = recipe.precision == MatmulPrecision::kBF16 && has_bf16_gemm();
  ForwardRecord out;
  out.precision = bf16 ? "bf16" : "f32";
  out.operations = facts.forward_operations;
  out.cpu_seconds = cpu_seconds;
  out.gflops_per_core = facts.forward_operations / cpu_seconds / 1e9;
  out.gemm_gflops_per_core = gemm_rate(bf16 ? MatmulPrecision::kBF16 : MatmulPrecision::kF32);
  out.share_of_gemm = out.gflops_per_core / out.gemm_gflops_per_core;
  return out;
}

// Now, "2026-11-29T22:20:05Z".
std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  char text[32];
  return {text, std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts)};
}

// Of which kind the text is that was evaluated on.
std::string evaluation_kind(const QuantizeOptions& options, const RunTexts& texts) {
  if (texts.held_back.sequences.empty()) return "none";
  if (!options.evaluation.text.empty()) return "file";
  return has_source(options.calibration, SourceKind::kSelf) ? "self" : "calibration";
}

RunRecord run_record(const Recipe& recipe, const QuantizeOptions& options, const RunFacts& facts, Tracker& tracker) {
  RunRecord run;
  run.version = version();
  run.finished = utc_now();
  run.command = options.command;
  const std::filesystem::path output(facts.output);
  run.output = (output.has_filename() ? output.filename() : output.parent_path().filename()).string();
  run.fingerprint = facts.fingerprint;
  run.identity = facts.identity;
  run.seconds = tracker.seconds();
  run.cpu_seconds = tracker.cpu();
  run.peak_memory_bytes = static_cast<int64_t>(peak_resident_bytes());
  run.predicted_memory_bytes = static_cast<int64_t>(facts.plan.peak_bytes);
  run.resumed_blocks = facts.resumed_blocks;
  for (const auto& [name, time] : tracker.stages()) run.stages[name] = {time.seconds, time.cpu_seconds};
  const auto forward = run.stages.find("forward");
  if (forward != run.stages.end()) run.forward = forward_record(recipe, facts, forward->second.cpu_seconds);
  run.machine = {cpu_name(), threads(), static_cast<int64_t>(memory_bytes()), blas_kernel_name(), gemm_isa_name()};
  return run;
}

// What the guard chose, and for how many linears less than all of the recipe's steps; nothing without one.
std::optional<RoundingRecord> rounding_record(const std::vector<LinearRecord>& linears, const Recipe& recipe,
                                              int64_t sequences) {
  if (sequences == 0) return std::nullopt;
  RoundingRecord out;
  out.sequences = sequences;
  for (const LinearRecord& linear : linears) {
    if (!linear.chosen) continue;
    const std::string& rounding = linear.chosen->rounding;
    out.refined += rounding == "refined" ? 1 : 0;
    out.feedback += rounding == "feedback" ? 1 : 0;
    out.nearest += rounding == "nearest" ? 1 : 0;
    out.fallbacks += rounding != (recipe.rounding.refine ? "refined" : "feedback") ? 1 : 0;
    if (rounding != "nearest") ++out.damping[fmt::format("{:g}", linear.chosen->damping)];
  }
  return out;
}

CalibrationRecord calibration_record(const Recipe& recipe, const QuantizeOptions& options, const RunFacts& facts) {
  CalibrationRecord out;
  static_cast<TextRecord&>(out) = facts.texts->record;
  out.source = sources_text(options.calibration);
  out.sequences = std::ssize(facts.texts->calibration.sequences);
  out.tokens = facts.calibration_tokens;
  out.first_token_weight = facts.first_rows ? recipe.first_token_weight : 1;
  out.few_tokens = facts.few_tokens;
  out.made_from = facts.made_from;
  return out;
}

// Tensors that no linear in the report is a part of.
std::vector<std::string> kept_tensors(const ModelSource& source, const std::vector<LinearRecord>& linears) {
  std::set<std::string> quantized;
  for (const LinearRecord& linear : linears) quantized.insert(linear.name.substr(0, linear.name.find('[')));
  std::vector<std::string> kept;
  for (const CheckpointTensor& t : source.tensors()) {
    if (quantized.count(t.name) == 0) kept.push_back(t.name);
  }
  return kept;
}

}  // namespace

Report build_report(const ModelSource& source, const Recipe& recipe, const QuantizeOptions& options,
                    const RunFacts& facts, Tracker& tracker) {
  Report report;
  report.schema = kReportSchema;
  report.options = option_values(options, recipe);
  report.input = {facts.model, source.format(), source.family().name, !source.tokenizer().chat_template().empty(),
                  source.digest().text()};
  report.run = run_record(recipe, options, facts, tracker);
  report.model = model_record(source, facts);
  report.calibration = calibration_record(recipe, options, facts);
  report.held_back = {facts.texts->held_back_source, evaluation_kind(options, *facts.texts),
                      std::ssize(facts.texts->held_back.sequences), facts.texts->held_back.tokens()};
  for (const BlockRecord& block : facts.blocks) {
    for (const LinearRecord& linear : block.linears) {
      report.linears.push_back(linear);
      if (linear.raised_scales == 0 && linear.clamped_scales == 0) continue;
      ClampedRecord& clamped = report.clamped.emplace_back();
      clamped.name = linear.name;
      clamped.raised_scales = linear.raised_scales;
      clamped.clamped_scales = linear.clamped_scales;
    }
    report.scales.insert(report.scales.end(), block.scales.begin(), block.scales.end());
    report.invariance_error = std::max(report.invariance_error, block.invariance_error);
  }
  report.mixed = facts.mixed;
  if (report.mixed)
    report.mixed->file_bits_per_weight = file_bits_per_weight(*report.mixed, facts.written.front().second);
  report.rounding_choice = rounding_record(
      report.linears, recipe, guard_sequences(recipe, static_cast<int64_t>(facts.texts->calibration.sequences.size())));
  for (const Skipped& s : facts.skipped) report.skipped.push_back({s.name, s.reason});
  report.kept_in_16_bits = kept_tensors(source, report.linears);
  for (const auto& [format, written] : facts.written) {
    for (const ClampedTensor& c : written.clamped) {
      ClampedRecord& clamped = report.clamped.emplace_back();
      clamped.name = c.name;
      clamped.format = format;
      clamped.clamped = static_cast<int64_t>(c.clamped);
      clamped.flushed = static_cast<int64_t>(c.flushed);
      clamped.largest = c.largest;
    }
    for (const WrittenFile& f : written.files) report.files.push_back({format, f.name, static_cast<int64_t>(f.bytes)});
  }
  report.warnings = tracker.warnings();
  report.gate = gate_record(report, options.max_kl);
  std::vector<std::string> paths = options.calibration.calibration;
  paths.insert(paths.end(), {options.evaluation.text, source.path(), facts.model, facts.output});
  publish(report, paths);
  return report;
}

}  // namespace metal_marlin

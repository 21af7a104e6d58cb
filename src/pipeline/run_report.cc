#include "pipeline/run_report.h"

#include <fmt/format.h>
#include <metal_marlin/version.h>

#include <ctime>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "core/machine.h"
#include "core/threads.h"
#include "kernels/blas_kernels.h"
#include "kernels/gemm.h"
#include "pipeline/mixed_bits.h"
#include "pipeline/report_words.h"
#include "pipeline/size.h"
#include "pipeline/size_parts.h"
#include "source/tokenizer.h"

namespace metal_marlin {

using nlohmann::json;

namespace {

json model_section(const ModelSource& source, const RunFacts& facts) {
  json model;
  const WriteReport& first = facts.written.front().second;
  const ModelSize before = model_size(source);
  if (facts.evaluation) {
    model = model_figures(*facts.evaluation);
  } else {
    model["perplexity"] = {{"reference", nullptr}, {"quantized", nullptr}};
    model["kl_divergence"] = {{"mean", nullptr}, {"standard_error", nullptr}, {"p99", nullptr}};
    model["top1_agreement"] = nullptr;
    model["positions"] = 0;
  }
  model["bits_per_weight"] = first.bits_per_weight;
  model["bytes"] = first.quantized_bytes + first.kept_bytes;
  model["linears_bits_per_weight"] = first.quantized_weights > 0 ? 8.0 * static_cast<double>(first.quantized_bytes) /
                                                                       static_cast<double>(first.quantized_weights)
                                                                 : 0.0;
  model["formats"] = json::array();
  for (const auto& [format, written] : facts.written) {
    model["formats"].push_back({{"format", format},
                                {"bytes", written.quantized_bytes + written.kept_bytes},
                                {"bits_per_weight", written.bits_per_weight}});
  }
  model["parts"] = size_parts(source, first.kept, first.quantized_bytes);
  model["parameters"] = before.parameters;
  model["source_bytes"] = before.bytes;
  model["source_bits_per_weight"] = before.bits_per_weight();
  return model;
}

// The calibration stream's forward pass beside the rate of plain matrix products, measured here and now.
json forward_section(const Recipe& recipe, const RunFacts& facts, double cpu_seconds) {
  if (facts.forward_operations <= 0 || cpu_seconds <= 0) return nullptr;
  const bool bf16 = recipe.precision == ComputeType::kBF16 && has_bf16_gemm();
  const double rate = facts.forward_operations / cpu_seconds / 1e9;
  const double gemm = gemm_rate(bf16 ? GemmType::kBF16 : GemmType::kF32);
  return {{"precision", bf16 ? "bf16" : "f32"}, {"operations", facts.forward_operations},
          {"cpu_seconds", cpu_seconds},         {"gflops_per_core", rate},
          {"gemm_gflops_per_core", gemm},       {"share_of_gemm", rate / gemm}};
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

json run_section(const Recipe& recipe, const QuantizeOptions& options, const RunFacts& facts, Tracker& tracker) {
  json run;
  run["version"] = version();
  run["finished"] = utc_now();
  run["command"] = options.command;
  const std::filesystem::path output(facts.output);
  run["output"] = (output.has_filename() ? output.filename() : output.parent_path().filename()).string();
  run["fingerprint"] = fmt::format("{:016x}", facts.fingerprint);
  run["identity"] = facts.identity;
  run["seconds"] = tracker.seconds();
  run["cpu_seconds"] = tracker.cpu();
  run["peak_memory_bytes"] = peak_resident_bytes();
  run["predicted_memory_bytes"] = facts.plan.peak();
  run["resumed_blocks"] = facts.resumed_blocks;
  json stages = json::object();
  for (const auto& [name, time] : tracker.stages())
    stages[name] = {{"seconds", time.seconds}, {"cpu_seconds", time.cpu_seconds}};
  run["stages"] = stages;
  run["forward"] =
      forward_section(recipe, facts, stages.contains("forward") ? stages["forward"]["cpu_seconds"].get<double>() : 0.0);
  run["machine"] = {{"cpu", cpu_name()},
                    {"threads", threads()},
                    {"memory_bytes", memory_bytes()},
                    {"blas_kernel", blas_kernel_name()},
                    {"gemm_isa", gemm_isa_name()}};
  return run;
}

}  // namespace

json model_figures(const Evaluation& e) {
  json model;
  model["perplexity"] = {{"reference", e.reference_perplexity}, {"quantized", e.perplexity}};
  model["kl_divergence"] = {{"mean", e.kl_mean}, {"standard_error", e.kl_standard_error}, {"p99", e.kl_p99}};
  model["top1_agreement"] = e.top1_agreement;
  model["positions"] = e.positions;
  return model;
}

bool only_estimated(const json& report) {
  const json mixed = report.value("mixed", json());
  return mixed.is_object() && mixed.value("target_bits", json()).is_null() &&
         !report.value("/model/kl_divergence/mean"_json_pointer, json()).is_number();
}

bool gate_verdict(const json& report, double max_kl) {
  if (max_kl < 0 || only_estimated(report)) return true;
  const json kl = report.value("/model/kl_divergence/mean"_json_pointer, json());
  return kl.is_number() && kl.get<double>() <= max_kl;
}

// What the guard chose, and for how many linears less than all of the recipe's steps; null without one.
json rounding_section(const json& linears, const Recipe& recipe, int64_t sequences) {
  if (sequences == 0) return nullptr;
  json section = {{"sequences", sequences}, {"refined", 0},   {"feedback", 0},
                  {"nearest", 0},           {"fallbacks", 0}, {"damping", json::object()}};
  const auto count = [&](const char* key) { section[key] = section[key].get<int64_t>() + 1; };
  for (const json& linear : linears) {
    if (!linear.contains("chosen")) continue;
    const auto rounding = linear["chosen"]["rounding"].get<std::string>();
    count(rounding.c_str());
    if (rounding != (recipe.refine ? "refined" : "feedback")) count("fallbacks");
    if (rounding == "nearest") continue;
    const std::string damping = fmt::format("{:g}", linear["chosen"]["damping"].get<double>());
    section["damping"][damping] = section["damping"].value(damping, int64_t{0}) + 1;
  }
  return section;
}

json gate_section(const json& report, double max_kl) {
  if (max_kl < 0) return {{"max_kl", nullptr}, {"passed", nullptr}};
  return {{"max_kl", max_kl}, {"passed", only_estimated(report) ? json(nullptr) : json(gate_verdict(report, max_kl))}};
}

json build_report(const ModelSource& source, const Recipe& recipe, const QuantizeOptions& options,
                  const RunFacts& facts, Tracker& tracker) {
  json report;
  report["schema"] = kReportSchema;
  report["options"] = options_json(options, recipe);
  report["input"] = {{"path", facts.model},
                     {"format", source.format()},
                     {"family", source.family().name},
                     {"chat_template", !source.tokenizer().chat_template().empty()},
                     {"digest", fmt::format("{:016x}", source.digest())}};
  report["run"] = run_section(recipe, options, facts, tracker);
  report["model"] = model_section(source, facts);
  report["calibration"] = {{"source", sources_text(options.calibration)},
                           {"sequences", facts.texts->calibration.sequences.size()},
                           {"tokens", facts.calibration_tokens},
                           {"first_token_weight", facts.first_rows ? json(recipe.first_token_weight) : json(1.0)},
                           {"few_tokens", json::parse(facts.few_tokens_json)}};
  report["calibration"].update(json::parse(facts.texts->calibration_facts));
  report["held_back"] = {{"source", facts.texts->held_back_source},
                         {"kind", evaluation_kind(options, *facts.texts)},
                         {"chunks", facts.texts->held_back.sequences.size()},
                         {"tokens", facts.texts->held_back.tokens()}};
  json linears = json::array();
  json scales = json::array();
  json clamped = json::array();
  double invariance = 0;
  for (size_t layer = 0; layer < facts.blocks.size(); ++layer) {
    const json& block = facts.blocks[layer];
    for (const json& linear : block.at("linears")) {
      linears.push_back(linear);
      if (linear.value("raised_scales", 0) > 0 || linear.value("clamped_scales", 0) > 0) {
        clamped.push_back({{"name", linear["name"]},
                           {"raised_scales", linear["raised_scales"]},
                           {"clamped_scales", linear["clamped_scales"]}});
      }
    }
    for (json scale : block.at("scales")) {
      scale["layer"] = layer;
      scales.push_back(std::move(scale));
    }
    invariance = std::max(invariance, block.value("invariance_error", 0.0));
  }
  report["linears"] = linears;
  report["mixed"] = facts.mixed;
  if (!facts.mixed.is_null())
    report["mixed"]["file_bits_per_weight"] = file_bits_per_weight(facts.mixed, facts.written.front().second);
  report["rounding_choice"] = rounding_section(
      linears, recipe, guard_sequences(recipe, static_cast<int64_t>(facts.texts->calibration.sequences.size())));
  report["scales"] = scales;
  report["invariance_error"] = invariance;
  report["skipped"] = json::array();
  for (const Skipped& s : facts.skipped) report["skipped"].push_back({{"name", s.name}, {"reason", s.reason}});
  json kept = json::array();
  std::set<std::string> quantized;
  for (const json& linear : linears) {
    const auto name = linear["name"].get<std::string>();
    quantized.insert(name.substr(0, name.find('[')));
  }
  for (const CheckpointTensor& t : source.tensors()) {
    if (quantized.count(t.name) == 0) kept.push_back(t.name);
  }
  report["kept_in_16_bits"] = kept;
  json files = json::array();
  for (const auto& [format, written] : facts.written) {
    for (const ClampedTensor& c : written.clamped) {
      clamped.push_back({{"name", c.name},
                         {"format", format},
                         {"clamped", c.clamped},
                         {"flushed", c.flushed},
                         {"largest", c.largest}});
    }
    for (const WrittenFile& f : written.files)
      files.push_back({{"format", format}, {"name", f.name}, {"bytes", f.bytes}});
  }
  report["clamped"] = clamped;
  report["padded"] = json::array();  // an explicit group size must divide; nothing is ever padded
  report["files"] = files;
  report["warnings"] = tracker.warnings();
  report["gate"] = gate_section(report, options.max_kl);
  std::vector<std::string> paths = options.calibration.calibration;
  paths.insert(paths.end(), {options.evaluation.text, source.path(), facts.model, facts.output});
  publish(report, paths);
  return report;
}

}  // namespace metal_marlin

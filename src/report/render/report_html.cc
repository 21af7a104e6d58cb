// report.html: one self-contained page, drawings as inline SVG, no script. Its template is report/report.html.jinja.
#include <embedded/kReportPage.h>
#include <fmt/format.h>
#include <metal_marlin/report.h>

#include <algorithm>
#include <cctype>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>
#include <vector>

#include "core/border.h"
#include "core/counted.h"
#include "records/json_records.h"
#include "report/gate.h"
#include "report/render/mixed_report.h"
#include "report/render/printable.h"
#include "report/render/report_lists.h"
#include "report/render/report_plot.h"
#include "report/render/report_words.h"
#include "report/render/text_words.h"
#include "report/run_report.h"
#include "report/size.h"
#include "report/size_parts.h"
#include "text/texts.h"
#include "tokenizer/page.h"

namespace metal_marlin {
namespace {

using nlohmann::json;

json verdict_words(double mean) {
  const Verdict verdict = kl_verdict(mean);
  return {{"style", mean < 0.05   ? "good"
                    : mean < 0.15 ? "fair"
                                  : "bad"},
          {"word", verdict.word},
          {"reason", verdict.reason}};
}

json gate_words(const Report& r) {
  const bool estimated = only_estimated(r);
  const bool passed = estimated || r.gate.passed.value_or(false);
  return {{"passed", passed}, {"text", estimated ? "met by the estimate, not measured" : passed ? "passed" : "missed"}};
}

json part_words(const std::vector<PartRecord>& parts) {
  json list = json::array();
  for (const PartRecord& part : parts) {
    const uint64_t bytes = bytes_of(part.bytes);
    json bits;  // of a weight; unknown without weights
    if (part.weights > 0) bits = 8 * static_cast<double>(bytes) / static_cast<double>(part.weights);
    list.push_back({{"name", part.name},
                    {"weights", part.weights},
                    {"before", size_text(bytes_of(part.source_bytes))},
                    {"now", size_text(bytes)},
                    {"bits", bits}});
  }
  return list;
}

// Which linears are marked: those with the largest errors, a twentieth of them, five at least.
void mark_linears(const Report& r, json& words) {
  const std::vector<LinearRecord>& linears = r.linears;
  const bool held = !linears.empty() && linears.front().held_back_output_error.has_value();
  const auto error = [&](const LinearRecord& l) {
    return (held ? l.held_back_output_error : l.output_error).value_or(l.weight_error);
  };
  std::vector<double> errors;
  for (const LinearRecord& l : linears) errors.push_back(error(l));
  const size_t marked = std::min(errors.size() / 2, std::max<size_t>(5, errors.size() / 20));
  std::sort(errors.begin(), errors.end(), std::greater<>());
  json worst = json::array();
  size_t count = 0;
  for (const LinearRecord& l : linears) {
    worst.push_back(count < marked && error(l) >= errors[marked - 1]);
    count += worst.back() ? 1 : 0;
  }
  words["worst"] = std::move(worst);
  words["marked"] = marked;
  words["errors"] = held ? "errors on " + evaluated_text(r) : "errors";
}

json clamped_words(const std::vector<ClampedRecord>& clamped) {
  json list = json::array();
  for (const ClampedRecord& c : clamped)
    list.push_back({{"name", c.name}, {"format", c.format.value_or("all")}, {"text", clamped_text(c)}});
  return list;
}

json kept_words(const std::vector<std::string>& names) {
  json list = json::array();
  for (const auto& [name, count] : names_by_kind(names)) list.push_back({{"name", name}, {"count", count}});
  return list;
}

json stage_words(const RunRecord& run) {
  json list = json::array();
  for (const auto& [name, time] : stages_by_time(run)) {
    list.push_back({{"name", name},
                    {"seconds", time.seconds},
                    {"cpu_seconds", time.cpu_seconds},
                    {"share", 100 * time.seconds / std::max(run.seconds, 1e-9)}});
  }
  return list;
}

// What the template shows of a report beside its figures.
json words_of(const Report& r) {
  const CalibrationRecord& calibration = r.calibration;
  const std::string details = calibration_details(calibration);
  std::string reason = size_reason(r.model.parts);
  if (!reason.empty()) reason.front() = static_cast<char>(std::toupper(static_cast<unsigned char>(reason.front())));
  json words = {
      {"name", model_name(r)},
      {"method", method_text(r)},
      {"verdict", verdict_words(r.model.kl_divergence.mean.value_or(0))},
      {"note", evaluation_note(r)},
      {"not_evaluated", not_evaluated_reason(r)},
      {"gate", gate_words(r)},
      {"positions", counted(r.model.positions, "position")},
      {"calibration",
       details.empty() ? fmt::format("{}: {}", calibration.source, counted(calibration.tokens, "token")) : details},
      {"cost", cost_text(r.run)},
      {"size", total_size_text(r)},
      {"sized_format", sized_format(r)},
      {"parts", part_words(r.model.parts)},
      {"size_reason", reason},
      {"use", use_command(r)},
      {"mixed", r.mixed ? mixed_words(*r.mixed) : json()},
      {"evaluated", evaluated_heading(r)},
      {"clamped", clamped_words(r.clamped)},
      {"kept", kept_words(r.kept_in_16_bits)},
      {"stages", stage_words(r.run)},
      {"rounding", r.rounding_choice ? rounding_choice_text(*r.rounding_choice) : std::string()},
      {"threads", counted(r.run.machine.threads, "thread")},
  };
  mark_linears(r, words);
  return words;
}

void cut_folders(json& value) {
  if (value.is_string()) {
    value = without_folders(value.get_ref<const std::string&>());
  } else if (value.is_structured()) {
    for (auto& entry : value) cut_folders(entry);
  }
}

}  // namespace

std::string_view page_start() {
  return kReportPage.substr(0, kReportPage.find("<title>"));
}

std::string render_report_html(const Report& report) try {
  Report r = report;
  make_printable(r);
  json context = {{"report", json_of(r)}, {"words", words_of(r)}};
  cut_folders(context);
  context["drawings"] = {{"errors", error_plot(r.linears, evaluated_text(r))},
                         {"mixed", r.mixed ? mixed_plot(*r.mixed) : std::string()}};
  return render_page(kReportPage, context);
} catch (...) {
  rethrow_as_error("render_report_html");
}

}  // namespace metal_marlin

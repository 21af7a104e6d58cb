// report.html: one self-contained page, drawings as inline SVG, no script.
#include <fmt/format.h>
#include <metal_marlin/report.h>

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "core/border.h"
#include "core/counted.h"
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

namespace metal_marlin {
namespace {

std::string text_cell(const std::string& text) {
  return escape_html(without_folders(text));
}

std::string cell(const std::string& text) {
  return text_cell(text);
}
std::string cell(int64_t number) {
  return fmt::format("{}", number);
}
std::string cell(const std::optional<double>& number, const char* format = "{:.4f}") {
  return number ? fmt::format(fmt::runtime(format), *number) : "&ndash;";
}

std::string percent(const std::optional<double>& share) {
  return share ? fmt::format("{:.2f} %", 100 * *share) : "&ndash;";
}

// [576, 1536] -> 576 x 1536.
std::string shape_text(const std::vector<int64_t>& shape) {
  std::string out;
  for (const int64_t size : shape) out += (out.empty() ? "" : " &times; ") + cell(size);
  return out;
}

std::string bits_cell(const std::optional<int64_t>& bits) {
  return bits ? cell(*bits) : "&ndash;";
}

// -1 is a whole row.
std::string group_cell(const std::optional<int64_t>& size) {
  return size && *size < 0 ? "a row" : bits_cell(size);
}

// Cells are HTML already. No rows: nothing. Wide tables scroll on their own.
class Table {
 public:
  // `numbers`: from which column on cells are aligned to the right.
  Table(const std::vector<std::string>& head, size_t numbers) : numbers_(numbers) {
    add(head, "th", "");
    head_ = std::exchange(rows_, {});
  }
  void row(const std::vector<std::string>& cells, const char* style = "") { add(cells, "td", style); }
  bool empty() const { return rows_.empty(); }
  std::string html() const {
    if (empty()) return "";
    return "<div class=\"wide\"><table class=\"list\">" + head_ + rows_ + "</table></div>";
  }

 private:
  void add(const std::vector<std::string>& cells, const char* tag, const char* style) {
    rows_ += *style == 0 ? "<tr>" : fmt::format("<tr class=\"{}\">", style);
    for (size_t i = 0; i < cells.size(); ++i)
      rows_ += fmt::format("<{0}{1}>{2}</{0}>", tag, i >= numbers_ ? " class=\"n\"" : "", cells[i]);
    rows_ += "</tr>\n";
  }
  std::string head_;
  std::string rows_;
  size_t numbers_;
};

// "<h2>Warnings (3)</h2>" and the content; nothing of an empty list.
std::string section(const char* title, size_t count, const std::string& content) {
  return count == 0 ? "" : fmt::format("<h2>{} ({})</h2>{}", title, count, content);
}

constexpr const char* kStyle = R"(
:root{--text:#1d2328;--soft:#5b6670;--back:#fff;--rule:#dfe4e8;--mark:#fff3e0;--good:#1b7f4b;--fair:#9a6700;--bad:#b3261e}
:root{--c0:#1b6ca8;--c1:#c2410c;--c2:#3f7d3a;--c3:#8e44ad;--c4:#b7791f;--c5:#0f8b8d;--c6:#c2185b}
@media(prefers-color-scheme:dark){
:root{--text:#e4e8eb;--soft:#9aa7b1;--back:#14181c;--rule:#303940;--mark:#3a2e1c;--good:#5fd08f;--fair:#e6b450;--bad:#ff8a80}
:root{--c0:#6cb6ff;--c1:#ff9f6b;--c2:#8ddb8c;--c3:#d2a8ff;--c4:#f2cc60;--c5:#56d4dd;--c6:#ff9bce}}
body{font:16px/1.5 system-ui,sans-serif;color:var(--text);background:var(--back);max-width:60rem;margin:1.5rem auto;
padding:0 1rem;overflow-wrap:anywhere}
h1{font-size:1.5rem;line-height:1.25;margin:0}h2{font-size:1.15rem;margin:2rem 0 .5rem}p{margin:.4rem 0}
.small,.list{font-size:.875rem}.small{color:var(--soft)}code{font-size:.9em}
pre{background:color-mix(in srgb,var(--rule) 45%,transparent);padding:.6rem .8rem;white-space:pre-wrap;margin:.4rem 0}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums}
td,th{padding:.25rem .9rem .25rem 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--rule)}
.list td,.list th{overflow-wrap:normal;white-space:nowrap}.list td.text{white-space:normal;overflow-wrap:anywhere}
.facts th{font-weight:600;white-space:nowrap}.n{text-align:right!important}
.verdict{font-size:1.1rem;border-left:.3rem solid;padding:.4rem .8rem;margin:1rem 0}
.good{border-color:var(--good)}.fair{border-color:var(--fair)}.bad{border-color:var(--bad)}
.miss{color:var(--bad);font-weight:600}tr.worst td{background:var(--mark)}
.plot{width:100%;min-width:500px;font-size:13px}.key{display:flex;flex-wrap:wrap;gap:.2rem 1.2rem;font-size:.875rem}
.key span{white-space:nowrap}.key svg{width:28px;height:12px}.plot text{fill:var(--text)}.grid{stroke:var(--rule)}
.line{fill:none;stroke-width:2}.c0{stroke:var(--c0)}.c1{stroke:var(--c1)}.c2{stroke:var(--c2)}.c3{stroke:var(--c3)}
.c4{stroke:var(--c4)}.c5{stroke:var(--c5)}.c6{stroke:var(--c6)}
)";

std::string verdict_html(const Report& r) {
  const DivergenceRecord& kl = r.model.kl_divergence;
  std::string h;
  if (kl.mean) {
    const double mean = *kl.mean;
    const Verdict verdict = kl_verdict(mean);
    h += fmt::format(
        "<div class=\"verdict {}\"><b>{}</b>: KL divergence {} &plusmn; {}<br><span class=\"small\">"
        "{}.",
        mean < 0.05   ? "good"
        : mean < 0.15 ? "fair"
                      : "bad",
        verdict.word, cell(kl.mean), cell(kl.standard_error), escape_html(verdict.reason));
    if (const std::string note = evaluation_note(r); !note.empty()) h += " Measured on " + escape_html(note) + ".";
    h += "</span></div>";
  } else {
    h += "<div class=\"verdict fair\"><b>not evaluated</b>: " + not_evaluated_reason(r) + "</div>";
  }
  if (r.gate.max_kl) {
    const bool estimated = only_estimated(r);
    const bool passed = estimated || r.gate.passed.value_or(false);
    h += fmt::format("<p class=\"{}\">Quality gate: KL divergence at most {}: {}</p>", passed ? "" : "miss",
                     cell(r.gate.max_kl),
                     estimated ? "met by the estimate, not measured"
                     : passed  ? "passed"
                               : "missed");
  }
  return h;
}

std::string facts_html(const Report& r) {
  const ModelRecord& m = r.model;
  std::string h = "<div class=\"wide\"><table class=\"facts\">";
  const auto row = [&](const std::string& name, const std::string& value) {
    h += "<tr><th>" + name + "</th><td>" + value + "</td></tr>\n";
  };
  if (m.kl_divergence.mean) {
    row("perplexity", cell(m.perplexity.reference, "{:.3f}") + " &rarr; " + cell(m.perplexity.quantized, "{:.3f}"));
    row("same top token", percent(m.top1_agreement));
    row("KL divergence, p99", cell(m.kl_divergence.p99, "{:.3f}") + " (99 % of positions are below)");
    row("evaluated on", fmt::format("{}: {}", cell(r.held_back.source), counted(m.positions, "position")));
  }
  const std::string details = calibration_details(r.calibration);
  row("calibration", details.empty()
                         ? fmt::format("{}: {}", cell(r.calibration.source), counted(r.calibration.tokens, "token"))
                         : text_cell(details));
  row("cost", cost_text(r.run));
  return h + "</table></div>";
}

std::string size_html(const Report& r) {
  const ModelRecord& m = r.model;
  std::string h = fmt::format("<h2>Size</h2><p>{}: {} bits per weight, {} in the quantized linears{}.</p>",
                              escape_html(total_size_text(r)), cell(m.bits_per_weight, "{:.3f}"),
                              cell(m.linears_bits_per_weight, "{:.3f}"), escape_html(sized_format(r)));
  Table table({"part", "weights", "before", "now", "bits per weight"}, 1);
  for (const PartRecord& part : m.parts) {
    const auto weights = static_cast<double>(part.weights);
    const uint64_t bytes = bytes_of(part.bytes);
    table.row({cell(part.name), weights < 1e6 ? cell(part.weights) : fmt::format("{:.1f} M", weights / 1e6),
               size_text(bytes_of(part.source_bytes)), size_text(bytes),
               weights > 0 ? fmt::format("{:.2f}", 8 * static_cast<double>(bytes) / weights) : "&ndash;"});
  }
  h += table.html();
  if (std::string reason = size_reason(m.parts); !reason.empty()) {
    reason.front() = static_cast<char>(std::toupper(static_cast<unsigned char>(reason.front())));
    h += "<p>" + escape_html(reason) + ".</p>";
  }
  return h;
}

std::string use_html(const Report& r) {
  const std::string use = use_command(r);
  std::string h;
  if (!use.empty()) {
    h += "<h2>Use it</h2><pre>" + escape_html(use) +
         "</pre><p class=\"small\">README.md beside the weights shows how other programs load it.</p>";
  }
  if (!r.run.command.empty()) h += "<h2>Make it again</h2><pre>" + text_cell(r.run.command) + "</pre>";
  return h;
}

std::string warnings_html(const std::vector<std::string>& warnings) {
  std::string h = "<ul class=\"small\">";
  for (const std::string& warning : warnings) h += "<li>" + cell(warning) + "</li>\n";
  return section("Warnings", warnings.size(), h + "</ul>");
}

// The linears, those with the largest errors marked: a twentieth of them, five at least.
std::string linears_html(const Report& r) {
  const std::vector<LinearRecord>& linears = r.linears;
  if (linears.empty()) return "";
  const bool held = linears.front().held_back_output_error.has_value();
  const auto error = [&](const LinearRecord& l) {
    return (held ? l.held_back_output_error : l.output_error).value_or(l.weight_error);
  };
  std::vector<double> errors;
  for (const LinearRecord& l : linears) errors.push_back(error(l));
  const size_t marked = std::min(errors.size() / 2, std::max<size_t>(5, errors.size() / 20));
  std::sort(errors.begin(), errors.end(), std::greater<>());
  const double least = marked > 0 ? errors[marked - 1] : errors.front() + 1;
  Table table(
      {"name", "shape", "bits", "group", "weight error", "output error", evaluated_heading(r), "clipped", "saturated"},
      1);
  size_t count = 0;
  for (const LinearRecord& l : linears) {
    const bool worst = count < marked && error(l) >= least;
    count += worst ? 1 : 0;
    table.row(
        {cell(l.name), shape_text(l.shape), bits_cell(l.bits), group_cell(l.group_size), cell(l.weight_error),
         cell(l.output_error), cell(l.held_back_output_error), percent(l.clipped_share), percent(l.saturated_share)},
        worst ? "worst" : "");
  }
  const std::string note =
      fmt::format("<p class=\"small\">Errors are relative. The {} with the largest {} are marked.</p>", marked,
                  held ? "errors on " + text_cell(evaluated_text(r)) : "errors");
  return section("Linears", linears.size(), (marked > 0 ? note : "") + table.html());
}

std::string stages_html(const RunRecord& run) {
  const double all = std::max(run.seconds, 1e-9);
  Table table({"stage", "seconds", "CPU seconds", "share"}, 1);
  for (const auto& [name, time] : stages_by_time(run)) {
    table.row({escape_html(name), fmt::format("{:.2f}", time.seconds), fmt::format("{:.2f}", time.cpu_seconds),
               fmt::format("{:.1f} %", 100 * time.seconds / all)});
  }
  return table.empty() ? "" : "<h2>Where the time went</h2>" + table.html();
}

std::string lists_html(const Report& r) {
  std::string h;
  Table skipped({"tensor", "reason"}, 2);
  for (const SkippedRecord& s : r.skipped) skipped.row({cell(s.name), cell(s.reason)});
  h += section("Skipped: not quantized, and why", r.skipped.size(), skipped.html());
  Table few({"tensor", "tokens", "channels"}, 1);
  for (const FewTokensRecord& f : r.calibration.few_tokens)
    few.row({cell(f.name), cell(f.tokens), cell(f.in_features)});
  h += section("Fewer than 4 calibration tokens for each input channel", r.calibration.few_tokens.size(), few.html());
  Table clamped({"tensor", "format", "what happened"}, 3);
  for (const ClampedRecord& c : r.clamped)
    clamped.row({cell(c.name), c.format ? cell(*c.format) : "all", text_cell(clamped_text(c))});
  h += section("Clamped or flushed: beyond the range of float16", r.clamped.size(), clamped.html());
  Table kept({"tensor", "how many"}, 1);
  for (const auto& [name, count] : names_by_kind(r.kept_in_16_bits))
    kept.row({escape_html(name), fmt::format("{}", count)});
  return h + section("Left in 16 bits or more", r.kept_in_16_bits.size(), kept.html());
}

}  // namespace

std::string render_report_html(const Report& report) try {
  Report r = report;
  make_printable(r);
  const std::string name = escape_html(model_name(r));
  std::string h = fmt::format(
      "{}<title>{}: quantization report</title><style>{}</style></head><body><h1>{}</h1><p class=\"small\">"
      "Quantization report: {}{}.</p>",
      kPageStart, name, kStyle, name, text_cell(method_text(r)),
      r.run.finished.empty() ? "" : "; " + cell(r.run.finished.substr(0, 10)));
  h += verdict_html(r) + facts_html(r) + size_html(r) + warnings_html(r.warnings) + use_html(r);
  h += error_plot(r.linears, evaluated_text(r)) + (r.mixed ? mixed_html(*r.mixed) : "") + linears_html(r) +
       lists_html(r);
  h += stages_html(r.run);
  if (r.rounding_choice)
    h += "<h2>Rounding</h2><p class=\"small\">" + text_cell(rounding_choice_text(*r.rounding_choice)) + ".</p>";
  h += fmt::format("<p class=\"small\">metal-marlin {} on {}, {}; report schema {}</p></body></html>\n",
                   cell(r.run.version), cell(r.run.machine.cpu), counted(r.run.machine.threads, "thread"), r.schema);
  return h;
} catch (...) {
  rethrow_as_error("render_report_html");
}

}  // namespace metal_marlin

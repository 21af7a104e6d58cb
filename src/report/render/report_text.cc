// Reports and plans as text.
#include <fmt/format.h>
#include <metal_marlin/error.h>
#include <metal_marlin/report.h>

#include <algorithm>
#include <filesystem>

#include "core/border.h"
#include "core/counted.h"
#include "core/files/atomic_file.h"
#include "core/files/file_status.h"
#include "records/options.h"
#include "report/gate.h"
#include "report/render/mixed_report.h"
#include "report/render/printable.h"
#include "report/render/report_lists.h"
#include "report/render/report_words.h"
#include "report/render/text_words.h"
#include "report/report_check.h"
#include "report/run_report.h"
#include "report/size.h"
#include "report/size_parts.h"
#include "text/texts.h"
#include "write/manifest.h"

namespace metal_marlin {
namespace {

std::string number(const std::optional<double>& value, const char* format) {
  return value ? fmt::format(fmt::runtime(format), *value) : std::string("-");
}

std::string percent(const std::optional<double>& share) {
  return share ? fmt::format("{:.1f} %", 100 * *share) : std::string("-");
}

// Mean of a field over the linears of one kind ("q_proj"), by the last part of the module's name.
struct KindRow {
  std::string kind;
  int64_t count = 0;
  double weight = 0;
  double output = 0;
  double held_back = 0;
  int64_t measured = 0;
  int64_t held_back_measured = 0;
  double worst = 0;
  std::string worst_name;
};

std::vector<KindRow> by_kind(const std::vector<LinearRecord>& linears) {
  std::vector<KindRow> rows;
  for (const LinearRecord& l : linears) {
    const size_t part = l.name.find('[');
    const std::string suffix = part == std::string::npos ? "" : l.name.substr(part);
    const std::string name = l.name.substr(0, l.name.rfind(".weight"));
    const std::string kind = name.substr(name.rfind('.') + 1) + suffix;
    auto it = std::find_if(rows.begin(), rows.end(), [&](const KindRow& r) { return r.kind == kind; });
    KindRow& row = it != rows.end() ? *it : rows.emplace_back(KindRow{kind});
    ++row.count;
    row.weight += l.weight_error;
    if (l.output_error) {
      row.output += *l.output_error;
      ++row.measured;
    }
    if (l.held_back_output_error) {
      row.held_back += *l.held_back_output_error;
      ++row.held_back_measured;
      if (*l.held_back_output_error > row.worst) {
        row.worst = *l.held_back_output_error;
        row.worst_name = l.name;
      }
    }
  }
  return rows;
}

std::string kinds_text(const Report& r) {
  std::string out = fmt::format("{:<12} {:>6} {:>13} {:>13} {:>13}   {}\n", "linear", "count", "weight error",
                                "output error", evaluated_heading(r), std::string("worst ") + evaluated_heading(r));
  const auto mean = [](double sum, int64_t n) {
    return n > 0 ? fmt::format("{:.4f}", sum / static_cast<double>(n)) : std::string("-");
  };
  for (const KindRow& k : by_kind(r.linears)) {
    out += fmt::format("{:<12} {:>6} {:>13} {:>13} {:>13}   {}\n", k.kind, k.count, mean(k.weight, k.count),
                       mean(k.output, k.measured), mean(k.held_back, k.held_back_measured),
                       k.held_back_measured > 0 ? fmt::format("{:.4f} {}", k.worst, k.worst_name) : "-");
  }
  return out;
}

std::string stages_text(const RunRecord& run) {
  std::string out = fmt::format("{:<20} {:>9} {:>9} {:>7}\n", "stage", "seconds", "CPU s", "share");
  for (const auto& [name, time] : stages_by_time(run)) {
    out += fmt::format("{:<20} {:>9.2f} {:>9.2f} {:>6.1f}%\n", name, time.seconds, time.cpu_seconds,
                       100 * time.seconds / std::max(run.seconds, 1e-9));
  }
  return out;
}

// By kind: one line for the same linear of every layer.
std::string few_tokens_list(const std::vector<FewTokensRecord>& entries) {
  std::vector<std::pair<std::string, size_t>> few;
  for (FewTokensRecord entry : entries) {
    entry.name = names_by_kind({entry.name}).front().first;
    const std::string text = few_tokens_text(entry);
    const auto it = std::find_if(few.begin(), few.end(), [&](const auto& known) { return known.first == text; });
    if (it == few.end()) {
      few.emplace_back(text, 1);
    } else {
      ++it->second;
    }
  }
  std::string out;
  if (!few.empty()) out += "\nFewer than 4 calibration tokens for each input channel\n";
  for (const auto& [text, count] : few) out += fmt::format("  {} ({})\n", text, counted(count, "linear"));
  return out;
}

// A title and the first 20 entries; nothing of an empty list.
template <class Entry, class Text>
std::string list_text(const char* title, const std::vector<Entry>& entries, const Text& text) {
  if (entries.empty()) return "";
  std::string out = fmt::format("\n{} ({})\n", title, entries.size());
  for (size_t i = 0; i < std::min<size_t>(entries.size(), 20); ++i) out += "  " + text(entries[i]) + "\n";
  if (entries.size() > 20) out += fmt::format("  ... and {} more, all in report.json\n", entries.size() - 20);
  return out;
}

std::string lists_text(const Report& r) {
  std::string out = list_text("Skipped: not quantized, and why", r.skipped,
                              [](const SkippedRecord& s) { return s.name + ": " + s.reason; });
  out += list_text("Warnings", r.warnings, [](const std::string& warning) { return warning; });
  out += few_tokens_list(r.calibration.few_tokens);
  out += list_text("Clamped or flushed: beyond the range of float16", r.clamped,
                   [](const ClampedRecord& c) { return fmt::format("{}: {}", c.name, clamped_text(c)); });
  if (!r.kept_in_16_bits.empty()) {
    out += fmt::format("\nLeft in 16 bits or more ({})\n", r.kept_in_16_bits.size());
    for (const auto& [name, count] : names_by_kind(r.kept_in_16_bits))
      out += count == 1 ? fmt::format("  {}\n", name) : fmt::format("  {} ({})\n", name, count);
  }
  return out;
}

// A key of the plan's memory or seconds in words.
std::string part_name(const std::string& key) {
  constexpr std::pair<const char*, const char*> kNames[] = {
      {"base", "program, tokenizer"},      {"states", "hidden states"},
      {"spilled", "states on disk"},       {"block", "one block"},
      {"statistics", "Gram matrices"},     {"forward", "forward pass"},
      {"forward_scratch", "forward pass"}, {"quantize_scratch", "search, rounding"},
      {"self_text", "making the text"},    {"sensitivity", "sensitivity"},
      {"head", "head and logits"},         {"search_and_round", "search, rounding"},
      {"evaluate", "evaluation"}};
  for (const auto& [name, text] : kNames) {
    if (key == name) return text;
  }
  return key;
}

// A page can be made again in a moment; any other file is not ours to replace.
void refuse_foreign_page(const std::string& path) {
  if (is_new_or_begins_with(path, page_start())) return;
  throw ArgumentError(
      fmt::format("{}: expected a new file or an earlier page of this program, found another file; move it away, or "
                  "choose another name",
                  path));
}

}  // namespace

Report read_report(const std::string& run) try {
  namespace fs = std::filesystem;
  std::string path = run;
  if (is_folder(run)) {
    path = (fs::path(run) / "report.json").string();
    if (!path_exists(path)) {
      const bool unfinished = path_exists(fs::path(run) / ".metal-marlin" / "run.json");
      throw SystemError(
          fmt::format("{}: expected the output of a run, found no report.json{}", run,
                      unfinished ? ": the run is not finished; the same quantize command continues it" : ""));
    }
  }
  if (!path_exists(path)) {
    throw SystemError(
        fmt::format("{}: expected the folder that quantize wrote, or a report.json, found nothing there", path));
  }
  return parse_report(read_text_file(path), path);
} catch (...) {
  rethrow_as_error("read_report");
}

Report report_from_json(const std::string& text, const std::string& name) try {
  return parse_report(text, name);
} catch (...) {
  rethrow_as_error("report_from_json");
}

void write_report_html(const Report& report, const std::string& path) try {
  refuse_checkpoint_file(path);
  require_regular_file_name(path);
  refuse_foreign_page(path);
  write_text_file(path, render_report_html(report));
} catch (...) {
  rethrow_as_error("write_report_html");
}

std::string render_report_summary(const Report& report) try {
  Report r = report;
  make_printable(r);
  const ModelRecord& m = r.model;
  std::string out;
  const auto line = [&](const std::string& name, const std::string& value) {
    out += fmt::format("{:<14} {}\n", name, value);
  };
  line("model", fmt::format("{}: {}", model_name(r), method_text(r)));
  if (const std::optional<double>& mean = m.kl_divergence.mean) {
    const Verdict verdict = kl_verdict(*mean);
    line("verdict", fmt::format("{}: {}", verdict.word, verdict.reason));
    line("KL divergence",
         fmt::format("{:.4f} +- {}; same top token {}; perplexity {} -> {}", *mean,
                     number(m.kl_divergence.standard_error, "{:.4f}"), percent(m.top1_agreement),
                     number(m.perplexity.reference, "{:.2f}"), number(m.perplexity.quantized, "{:.2f}")));
    const std::string note = evaluation_note(r);
    line("measured on", note.empty() ? r.held_back.source : note);
  } else {
    line("verdict", "not evaluated: " + not_evaluated_reason(r));
  }
  line("size", total_size_text(r) + (m.parts.empty() ? "" : ": " + size_parts_text(m.parts) + sized_format(r)));
  if (const std::string reason = size_reason(m.parts); !reason.empty()) line("", reason);
  line("cost", cost_text(r.run));
  return out;
} catch (...) {
  rethrow_as_error("render_report_summary");
}

std::string render_report_text(const Report& report) try {
  Report r = report;
  make_printable(r);
  const ModelRecord& m = r.model;
  std::string out;
  const auto line = [&](const std::string& name, const std::string& value) {
    out += fmt::format("{:<20} {}\n", name, value);
  };
  line("model", r.input.path);
  const int64_t group = option<int64_t>(r.options, "group_size").value_or(0);
  line("method", fmt::format("{}, {}, {} bits, {}", text_option(r, "method"), scheme_name(r),
                             r.mixed ? fmt::format("{:.3f}", r.mixed->bits_per_weight)
                                     : fmt::format("{}", option<int64_t>(r.options, "bits").value_or(0)),
                             group < 0 ? std::string("per channel") : fmt::format("groups of {}", group)));
  // Statistics from a file are of tokens, but no longer of sequences.
  const int64_t sequences = r.calibration.sequences;
  line("calibration", fmt::format("{}: {}{}", r.calibration.source,
                                  sequences > 0 ? fmt::format("{}, ", counted(sequences, "sequence")) : "",
                                  counted(r.calibration.tokens, "token")));
  if (const std::string details = calibration_details(r.calibration); !details.empty()) line("", details);
  if (r.held_back.chunks > 0) {
    line("evaluated on", fmt::format("{}: {}", r.held_back.source, counted(m.positions, "position")));
    if (const std::string note = evaluation_note(r); !note.empty()) line("", note);
    line("perplexity",
         fmt::format("{} -> {}", number(m.perplexity.reference, "{:.3f}"), number(m.perplexity.quantized, "{:.3f}")));
    line("KL divergence",
         fmt::format("{} +- {} (99 % of positions below {})", number(m.kl_divergence.mean, "{:.4f}"),
                     number(m.kl_divergence.standard_error, "{:.4f}"), number(m.kl_divergence.p99, "{:.3f}")));
    if (m.kl_divergence.mean) {
      const Verdict verdict = kl_verdict(*m.kl_divergence.mean);
      line("", fmt::format("{}: {}", verdict.word, verdict.reason));
    }
    line("same top token", percent(m.top1_agreement));
  } else {
    line("evaluation", "not evaluated: " + not_evaluated_reason(r));
  }
  line("size", fmt::format("{}: {:.3f} bits per weight, {:.3f} in the quantized linears{}", total_size_text(r),
                           m.bits_per_weight, m.linears_bits_per_weight, sized_format(r)));
  if (!m.parts.empty()) line("", size_parts_text(m.parts) + sized_format(r));
  if (const std::string reason = size_reason(m.parts); !reason.empty()) line("", reason);
  line("cost", cost_text(r.run));
  out += "\n" + kinds_text(r);
  if (r.mixed) out += "\nBits of each linear. " + mixed_text(*r.mixed, 20);
  out += "\n" + stages_text(r.run) + lists_text(r);
  if (r.rounding_choice) out += "\n" + rounding_choice_text(*r.rounding_choice) + "\n";
  out += fmt::format("\nlargest change of a block by folding: {:.1e}\n", r.invariance_error);
  if (r.gate.max_kl) {
    const char* verdict = only_estimated(r)               ? "met by the estimate, not measured"
                          : r.gate.passed.value_or(false) ? "passed"
                                                          : "MISSED";
    out += fmt::format("quality gate: mean KL divergence at most {}: {}\n", *r.gate.max_kl, verdict);
  }
  return out;
} catch (...) {
  rethrow_as_error("render_report_text");
}

std::string render_plan(const Plan& plan) try {
  Plan p = plan;
  make_printable(p);
  std::string out;
  const auto line = [&](const std::string& name, const std::string& value) {
    out += fmt::format("{:<20} {}\n", name, value);
  };
  line("model", p.model);
  line("output", p.output);
  if (p.start == "complete") {
    line("", "holds the result of this command already: the run would have nothing to do");
  } else if (p.start == "resume") {
    line("", fmt::format("holds this run, interrupted: it goes on after {} finished blocks", p.finished_blocks));
  } else if (p.start == "redo") {
    line("", "holds the result of this command, but not whole: the run would do the work again");
  }
  const OptionValues& o = p.options;
  const std::string bits =
      option<bool>(o, "mixed_bits") != true ? fmt::format("{} bits", option<int64_t>(o, "bits").value_or(0))
      : option<double>(o, "target_bits")
          ? fmt::format("at most {:g} bits per weight", *option<double>(o, "target_bits"))
          : fmt::format("the bits that an estimated KL of {:g} takes", option<double>(o, "max_kl").value_or(0));
  line("method",
       fmt::format("{}, {}, {}, group size {}", option<std::string>(o, "method").value_or(""),
                   option<std::string>(o, "scheme").value_or(""), bits, option<int64_t>(o, "group_size").value_or(0)));
  for (const PlannedSize& size : p.sizes) {
    const std::string place = p.sizes.size() == 1 ? "OUT" : "OUT/" + size.format;
    if (option<bool>(o, "mixed_bits") == true) {
      line("size", fmt::format("{} will be at most {} (now {}): {}", place, size_text(size.bytes),
                               size_text(p.source_bytes), size_parts_text(size.parts)));
      line("", "the run measures and then chooses the bits, so its result may be smaller");
      continue;
    }
    line("size", fmt::format("{} will be {} (now {}): {}", place, size_text(size.bytes), size_text(p.source_bytes),
                             size_parts_text(size.parts)));
    if (const std::string reason = size_reason(size.parts); !reason.empty()) line("", reason);
  }
  line("quantized", fmt::format("{} weight tensors, {:.1f} M weights", p.quantized.size(),
                                static_cast<double>(p.quantized_weights) / 1e6));
  line("tokens",
       fmt::format(
           "{} for calibration{}, {} {}", p.calibration_tokens,
           p.builtin_tokens > 0 ? fmt::format(" ({} of them from the program's own text)", p.builtin_tokens) : "",
           p.held_back_tokens,
           p.evaluation_text ? fmt::format("of {} to evaluate on", *p.evaluation_text)
                             : std::string("held back to evaluate on")));
  const MemoryRecord& m = p.memory;
  line("peak memory", fmt::format("{} of {} allowed", memory_text(m.peak_bytes), memory_text(p.memory_budget)));
  line("", "the most that is held at once; not all of these parts are held at the same time:");
  const std::pair<const char*, uint64_t> parts[] = {{"base", m.base},
                                                    {"states", m.states},
                                                    {"spilled", m.spilled},
                                                    {"block", m.block},
                                                    {"statistics", m.statistics},
                                                    {"forward_scratch", m.forward_scratch},
                                                    {"quantize_scratch", m.quantize_scratch},
                                                    {"head", m.head},
                                                    {"self_text", m.self_text},
                                                    {"selection", m.selection},
                                                    {"sensitivity", m.sensitivity}};
  for (const auto& [part, bytes] : parts) {
    if (bytes > 0) line("  " + part_name(part), memory_text(bytes));
  }
  line("disk", fmt::format("{} of {} free", memory_text(m.disk), memory_text(p.disk_free_bytes)));
  const auto total = p.seconds.find("total");
  line("time", fmt::format("about {} on {} of {} ({:.0f} GFLOP/s per core)",
                           duration_text(total != p.seconds.end() ? total->second : 0),
                           counted(p.machine.threads, "thread"), p.machine.cpu, p.machine.gemm_gflops_per_core));
  for (const auto& [name, seconds] : p.seconds) {
    if (name != "total" && seconds > 0) line("  " + part_name(name), duration_text(seconds));
  }
  for (const SkippedRecord& s : p.skipped) line("skipped", s.name + ": " + s.reason);
  return out;
} catch (...) {
  rethrow_as_error("render_plan");
}

}  // namespace metal_marlin

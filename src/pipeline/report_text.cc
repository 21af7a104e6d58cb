// Reports and plans as text.
#include <fmt/format.h>
#include <metal_marlin/error.h>
#include <metal_marlin/report.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>

#include "core/atomic_file.h"
#include "core/border.h"
#include "core/counted.h"
#include "core/file_status.h"
#include "pipeline/manifest.h"
#include "pipeline/mixed_report.h"
#include "pipeline/printable.h"
#include "pipeline/report_check.h"
#include "pipeline/report_lists.h"
#include "pipeline/report_words.h"
#include "pipeline/run_report.h"
#include "pipeline/size.h"
#include "pipeline/size_parts.h"
#include "pipeline/texts.h"

namespace metal_marlin {
namespace {

using nlohmann::json;

std::string number(const json& value, const char* format) {
  return value.is_number() ? fmt::format(fmt::runtime(format), value.get<double>()) : std::string("-");
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

std::vector<KindRow> by_kind(const json& linears) {
  std::vector<KindRow> rows;
  for (const json& l : linears) {
    std::string name = l["name"].get<std::string>();
    const std::string suffix = name.find('[') == std::string::npos ? "" : name.substr(name.find('['));
    name = name.substr(0, name.rfind(".weight"));
    const std::string kind = name.substr(name.rfind('.') + 1) + suffix;
    auto it = std::find_if(rows.begin(), rows.end(), [&](const KindRow& r) { return r.kind == kind; });
    KindRow& row = it != rows.end() ? *it : rows.emplace_back(KindRow{kind});
    ++row.count;
    row.weight += l["weight_error"].get<double>();
    if (l["output_error"].is_number()) {
      row.output += l["output_error"].get<double>();
      ++row.measured;
    }
    if (l["held_back_output_error"].is_number()) {
      const double e = l["held_back_output_error"].get<double>();
      row.held_back += e;
      ++row.held_back_measured;
      if (e > row.worst) {
        row.worst = e;
        row.worst_name = l["name"].get<std::string>();
      }
    }
  }
  return rows;
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
  if (is_new_or_begins_with(path, kPageStart)) return;
  throw ArgumentError(
      fmt::format("{}: expected a new file or an earlier page of this program, found another file; move it away, or "
                  "choose another name",
                  path));
}

}  // namespace

std::string read_report(const std::string& run) try {
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
  const std::string text = read_text_file(path);
  parse_report(text, path);
  return text;
} catch (...) {
  rethrow_as_error("read_report");
}

void write_report_html(const std::string& report_json, const std::string& path) try {
  refuse_checkpoint_file(path);
  require_regular_file_name(path);
  refuse_foreign_page(path);
  write_text_file(path, render_report_html(report_json));
} catch (...) {
  rethrow_as_error("write_report_html");
}

std::string render_report_summary(const std::string& report_json) try {
  const json r = parse_report(report_json, "report.json");
  const json& m = r.at("model");
  std::string out;
  const auto line = [&](const std::string& name, const std::string& value) {
    out += fmt::format("{:<14} {}\n", name, value);
  };
  line("model", fmt::format("{}: {}", model_name(r), method_text(r)));
  const json& mean = m.at("kl_divergence").at("mean");
  if (mean.is_number()) {
    const Verdict verdict = kl_verdict(mean.get<double>());
    line("verdict", fmt::format("{}: {}", verdict.word, verdict.reason));
    line("KL divergence", fmt::format("{} +- {}; same top token {}; perplexity {} -> {}", number(mean, "{:.4f}"),
                                      number(m.at("kl_divergence").at("standard_error"), "{:.4f}"),
                                      m.at("top1_agreement").is_number()
                                          ? fmt::format("{:.1f} %", 100 * m.at("top1_agreement").get<double>())
                                          : std::string("-"),
                                      number(m.at("perplexity").at("reference"), "{:.2f}"),
                                      number(m.at("perplexity").at("quantized"), "{:.2f}")));
    const std::string note = evaluation_note(r);
    line("measured on", note.empty() ? r.at("held_back").at("source").get<std::string>() : note);
  } else {
    line("verdict", "not evaluated: " + not_evaluated_reason(r));
  }
  const json& parts = m.at("parts");
  line("size", total_size_text(r) + (parts.empty() ? "" : ": " + size_parts_text(parts) + sized_format(r)));
  if (const std::string reason = size_reason(parts); !reason.empty()) line("", reason);
  const json& run = r.at("run");
  line("cost", fmt::format("{}, {} of processors, peak memory {}", duration_text(run.at("seconds").get<double>()),
                           duration_text(run.at("cpu_seconds").get<double>()),
                           memory_text(run.at("peak_memory_bytes").get<uint64_t>())));
  return out;
} catch (...) {
  rethrow_as_error("render_report_summary");
}

std::string render_report_text(const std::string& report_json) try {
  const json r = parse_report(report_json, "report.json");
  const json& m = r.at("model");
  const json& o = r.at("options");
  std::string out;
  const auto line = [&](const std::string& name, const std::string& value) {
    out += fmt::format("{:<20} {}\n", name, value);
  };
  line("model", r.at("input").at("path").get<std::string>());
  const int64_t group = o.at("group_size").get<int64_t>();
  line("method",
       fmt::format("{}, {}, {} bits, {}", o.at("method").get<std::string>(),
                   o.at("scheme") == "sym" ? "symmetric" : "asymmetric",
                   r.at("mixed").is_null() ? fmt::format("{}", o.at("bits").get<int>())
                                           : fmt::format("{:.3f}", r.at("mixed").at("bits_per_weight").get<double>()),
                   group < 0 ? std::string("per channel") : fmt::format("groups of {}", group)));
  // Statistics from a file are of tokens, but no longer of sequences.
  const int64_t sequences = r.at("calibration").at("sequences").get<int64_t>();
  line("calibration", fmt::format("{}: {}{}", r.at("calibration").at("source").get<std::string>(),
                                  sequences > 0 ? fmt::format("{}, ", counted(sequences, "sequence")) : "",
                                  counted(r.at("calibration").at("tokens").get<int64_t>(), "token")));
  if (const std::string details = calibration_details(r.at("calibration")); !details.empty()) line("", details);
  if (r.at("held_back").at("chunks").get<int64_t>() > 0) {
    line("evaluated on", fmt::format("{}: {}", r.at("held_back").at("source").get<std::string>(),
                                     counted(m.at("positions").get<int64_t>(), "position")));
    if (const std::string note = evaluation_note(r); !note.empty()) line("", note);
    line("perplexity", fmt::format("{} -> {}", number(m.at("perplexity").at("reference"), "{:.3f}"),
                                   number(m.at("perplexity").at("quantized"), "{:.3f}")));
    line("KL divergence",
         fmt::format("{} +- {} (99 % of positions below {})", number(m.at("kl_divergence").at("mean"), "{:.4f}"),
                     number(m.at("kl_divergence").at("standard_error"), "{:.4f}"),
                     number(m.at("kl_divergence").at("p99"), "{:.3f}")));
    if (const json& mean = m.at("kl_divergence").at("mean"); mean.is_number()) {
      const Verdict verdict = kl_verdict(mean.get<double>());
      line("", fmt::format("{}: {}", verdict.word, verdict.reason));
    }
    const json& same = m.at("top1_agreement");
    line("same top token", same.is_number() ? fmt::format("{:.1f} %", 100 * same.get<double>()) : "-");
  } else {
    line("evaluation", "not evaluated: " + not_evaluated_reason(r));
  }
  line("size", fmt::format("{}: {:.3f} bits per weight, {:.3f} in the quantized linears{}", total_size_text(r),
                           m.at("bits_per_weight").get<double>(), m.at("linears_bits_per_weight").get<double>(),
                           sized_format(r)));
  const json& parts = m.at("parts");
  if (!parts.empty()) line("", size_parts_text(parts) + sized_format(r));
  if (const std::string reason = size_reason(parts); !reason.empty()) line("", reason);
  const json& run = r.at("run");
  line("cost", fmt::format("{}, {} of processors, peak memory {}", duration_text(run.at("seconds").get<double>()),
                           duration_text(run.at("cpu_seconds").get<double>()),
                           memory_text(run.at("peak_memory_bytes").get<uint64_t>())));
  out += fmt::format("\n{:<12} {:>6} {:>13} {:>13} {:>13}   {}\n", "linear", "count", "weight error", "output error",
                     evaluated_heading(r), std::string("worst ") + evaluated_heading(r));
  for (const KindRow& k : by_kind(r.at("linears"))) {
    const auto mean = [](double sum, int64_t n) {
      return n > 0 ? fmt::format("{:.4f}", sum / static_cast<double>(n)) : std::string("-");
    };
    out += fmt::format("{:<12} {:>6} {:>13} {:>13} {:>13}   {}\n", k.kind, k.count, mean(k.weight, k.count),
                       mean(k.output, k.measured), mean(k.held_back, k.held_back_measured),
                       k.held_back_measured > 0 ? fmt::format("{:.4f} {}", k.worst, k.worst_name) : "-");
  }
  if (!r.at("mixed").is_null()) out += "\nBits of each linear. " + mixed_text(r.at("mixed"), 20);
  out += fmt::format("\n{:<20} {:>9} {:>9} {:>7}\n", "stage", "seconds", "CPU s", "share");
  std::vector<std::pair<std::string, json>> stages;
  for (const auto& [name, time] : run.at("stages").items()) stages.emplace_back(name, time);
  std::sort(stages.begin(), stages.end(), [](const auto& a, const auto& b) {
    return a.second.at("seconds").template get<double>() > b.second.at("seconds").template get<double>();
  });
  for (const auto& [name, time] : stages) {
    if (time.at("seconds").get<double>() < 0.005) continue;
    out += fmt::format("{:<20} {:>9.2f} {:>9.2f} {:>6.1f}%\n", name, time.at("seconds").get<double>(),
                       time.at("cpu_seconds").get<double>(),
                       100 * time.at("seconds").get<double>() / std::max(run.at("seconds").get<double>(), 1e-9));
  }
  const auto list = [&](const char* title, const json& entries, const std::function<std::string(const json&)>& text) {
    if (entries.empty()) return;
    out += fmt::format("\n{} ({})\n", title, entries.size());
    for (size_t i = 0; i < std::min<size_t>(entries.size(), 20); ++i) out += "  " + text(entries[i]) + "\n";
    if (entries.size() > 20) out += fmt::format("  ... and {} more, all in report.json\n", entries.size() - 20);
  };
  list("Skipped: not quantized, and why", r.at("skipped"),
       [](const json& s) { return s.at("name").get<std::string>() + ": " + s.at("reason").get<std::string>(); });
  list("Warnings", r.at("warnings"), [](const json& w) { return w.get<std::string>(); });
  // By kind: one line for the same linear of every layer.
  std::vector<std::pair<std::string, size_t>> few;
  for (const json& entry : r.at("calibration").value("few_tokens", json::array())) {
    json named = entry;
    named["name"] = names_by_kind(json::array({entry.at("name")})).front().first;
    const std::string text = few_tokens_text(named);
    const auto it = std::find_if(few.begin(), few.end(), [&](const auto& known) { return known.first == text; });
    if (it == few.end()) {
      few.emplace_back(text, 1);
    } else {
      ++it->second;
    }
  }
  if (!few.empty()) out += "\nFewer than 4 calibration tokens for each input channel\n";
  for (const auto& [text, count] : few) out += fmt::format("  {} ({})\n", text, counted(count, "linear"));
  list("Clamped or flushed: beyond the range of float16", r.at("clamped"),
       [](const json& c) { return fmt::format("{}: {}", c.at("name").get<std::string>(), clamped_text(c)); });
  if (!r.at("kept_in_16_bits").empty()) {
    out += fmt::format("\nLeft in 16 bits or more ({})\n", r.at("kept_in_16_bits").size());
    for (const auto& [name, count] : names_by_kind(r.at("kept_in_16_bits")))
      out += count == 1 ? fmt::format("  {}\n", name) : fmt::format("  {} ({})\n", name, count);
  }
  if (const json c = r.value("rounding_choice", json()); c.is_object()) out += "\n" + rounding_choice_text(c) + "\n";
  out += fmt::format("\nlargest change of a block by folding: {:.1e}\n", r.at("invariance_error").get<double>());
  if (r.at("gate").at("max_kl").is_number()) {
    const char* verdict = only_estimated(r)                       ? "met by the estimate, not measured"
                          : r.at("gate").at("passed").get<bool>() ? "passed"
                                                                  : "MISSED";
    out += fmt::format("quality gate: mean KL divergence at most {}: {}\n", r.at("gate").at("max_kl").get<double>(),
                       verdict);
  }
  return out;
} catch (...) {
  rethrow_as_error("render_report_text");
}

std::string render_plan(const std::string& plan_json) try {
  json p = json::parse(plan_json);
  make_printable(p);
  std::string out;
  const auto line = [&](const std::string& name, const std::string& value) {
    out += fmt::format("{:<20} {}\n", name, value);
  };
  const auto memory = [](const json& bytes) { return memory_text(bytes.get<uint64_t>()); };
  line("model", p.at("model").get<std::string>());
  line("output", p.at("output").get<std::string>());
  if (const json start = p.value("start", json()); start == "complete") {
    line("", "holds the result of this command already: the run would have nothing to do");
  } else if (start == "resume") {
    line("", fmt::format("holds this run, interrupted: it goes on after {} finished blocks",
                         p.value("finished_blocks", int64_t{0})));
  } else if (start == "redo") {
    line("", "holds the result of this command, but not whole: the run would do the work again");
  }
  const json& o = p.at("options");
  const bool mixed = o.at("mixed_bits").get<bool>();
  const std::string bits =
      !mixed ? fmt::format("{} bits", o.at("bits").get<int>())
      : o.at("target_bits").is_number()
          ? fmt::format("at most {:g} bits per weight", o.at("target_bits").get<double>())
          : fmt::format("the bits that an estimated KL of {:g} takes", o.at("max_kl").get<double>());
  line("method", fmt::format("{}, {}, {}, group size {}", o.at("method").get<std::string>(),
                             o.at("scheme").get<std::string>(), bits, o.at("group_size").get<int64_t>()));
  for (const json& size : p.at("sizes")) {
    const std::string place = p.at("sizes").size() == 1 ? "OUT" : "OUT/" + size.at("format").get<std::string>();
    line("size", fmt::format("{} will be {} (now {}): {}", place, size_text(size.at("bytes").get<uint64_t>()),
                             size_text(p.at("source_bytes").get<uint64_t>()), size_parts_text(size.at("parts"))));
    if (const std::string reason = size_reason(size.at("parts")); !reason.empty()) line("", reason);
  }
  line("quantized", fmt::format("{} weight tensors, {:.1f} M weights", p.at("quantized").size(),
                                p.at("quantized_weights").get<double>() / 1e6));
  const auto builtin = p.at("builtin_tokens").get<int64_t>();
  const json& text = p.at("evaluation_text");
  line("tokens", fmt::format("{} for calibration{}, {} {}", p.at("calibration_tokens").get<int64_t>(),
                             builtin > 0 ? fmt::format(" ({} of them from the program's own text)", builtin) : "",
                             p.at("held_back_tokens").get<int64_t>(),
                             text.is_string() ? fmt::format("of {} to evaluate on", text.get<std::string>())
                                              : std::string("held back to evaluate on")));
  const json& m = p.at("memory");
  line("peak memory", fmt::format("{} of {} allowed", memory(m.at("peak_bytes")), memory(p.at("memory_budget"))));
  line("", "the most that is held at once; not all of these parts are held at the same time:");
  for (const char* part : {"base", "states", "spilled", "block", "statistics", "forward_scratch", "quantize_scratch",
                           "head", "self_text", "selection", "sensitivity"}) {
    if (m.at(part).get<uint64_t>() > 0) line("  " + part_name(part), memory(m.at(part)));
  }
  line("disk", fmt::format("{} of {} free", memory(m.at("disk")), memory(p.at("disk_free_bytes"))));
  line("time", fmt::format("about {} on {} of {} ({:.0f} GFLOP/s per core)",
                           duration_text(p.at("seconds").at("total").get<double>()),
                           p.at("machine").at("threads").get<int>() == 1
                               ? std::string("1 thread")
                               : fmt::format("{}", counted(p.at("machine").at("threads").get<int>(), "thread")),
                           p.at("machine").at("cpu").get<std::string>(),
                           p.at("machine").at("gemm_gflops_per_core").get<double>()));
  for (const auto& [name, seconds] : p.at("seconds").items()) {
    if (name != "total" && seconds.get<double>() > 0)
      line("  " + part_name(name), duration_text(seconds.get<double>()));
  }
  for (const json& s : p.at("skipped"))
    line("skipped", s.at("name").get<std::string>() + ": " + s.at("reason").get<std::string>());
  return out;
} catch (...) {
  rethrow_as_error("render_plan");
}

}  // namespace metal_marlin

// Reports and plans as text.
#include <fmt/format.h>
#include <metal_marlin/error.h>
#include <metal_marlin/report.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>

#include "core/atomic_file.h"
#include "pipeline/mixed_report.h"
#include "pipeline/report_check.h"
#include "pipeline/report_lists.h"
#include "pipeline/run_report.h"
#include "pipeline/size.h"
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

}  // namespace

std::string read_report(const std::string& run) {
  namespace fs = std::filesystem;
  std::error_code code;
  std::string path = run;
  if (fs::is_directory(run, code)) {
    path = (fs::path(run) / "report.json").string();
    if (!fs::exists(path, code)) {
      const bool unfinished = fs::exists(fs::path(run) / ".metal-marlin" / "run.json", code);
      throw SystemError(
          fmt::format("{}: expected the output of a run, found no report.json{}", run,
                      unfinished ? ": the run is not finished; the same quantize command continues it" : ""));
    }
  }
  if (!fs::exists(path, code)) {
    throw SystemError(
        fmt::format("{}: expected the folder that quantize wrote, or a report.json, found nothing there", path));
  }
  const std::string text = read_text_file(path);
  parse_report(text, path);
  return text;
}

void write_report_html(const std::string& report_json, const std::string& path) {
  require_regular_file_name(path);
  write_text_file(path, render_report_html(report_json));
}

std::string render_report_text(const std::string& report_json) {
  const json r = parse_report(report_json, "report.json");
  const json& m = r["model"];
  const json& o = r["options"];
  std::string out;
  const auto line = [&](const std::string& name, const std::string& value) {
    out += fmt::format("{:<20} {}\n", name, value);
  };
  line("model", r["input"]["path"].get<std::string>());
  const int64_t group = o["group_size"].get<int64_t>();
  line("method", fmt::format("{}, {}, {} bits, {}", o["method"].get<std::string>(),
                             o["scheme"] == "sym" ? "symmetric" : "asymmetric",
                             r["mixed"].is_null() ? fmt::format("{}", o["bits"].get<int>())
                                                  : fmt::format("{:.3f}", r["mixed"]["bits_per_weight"].get<double>()),
                             group < 0 ? std::string("per channel") : fmt::format("groups of {}", group)));
  // Statistics from a file are of tokens, but no longer of sequences.
  const int64_t sequences = r["calibration"]["sequences"].get<int64_t>();
  line("calibration", fmt::format("{}: {}{} tokens", r["calibration"]["source"].get<std::string>(),
                                  sequences > 0 ? fmt::format("{} sequences, ", sequences) : "",
                                  r["calibration"]["tokens"].get<int64_t>()));
  if (const std::string details = calibration_details(r["calibration"]); !details.empty()) line("", details);
  if (r["held_back"]["chunks"].get<int64_t>() > 0) {
    line("evaluated on",
         fmt::format("{}: {} positions", r["held_back"]["source"].get<std::string>(), m["positions"].get<int64_t>()));
    line("perplexity", fmt::format("{} -> {}", number(m["perplexity"]["reference"], "{:.3f}"),
                                   number(m["perplexity"]["quantized"], "{:.3f}")));
    line("KL divergence",
         fmt::format("{} +- {} (99 % of positions below {})", number(m["kl_divergence"]["mean"], "{:.4f}"),
                     number(m["kl_divergence"]["standard_error"], "{:.4f}"),
                     number(m["kl_divergence"]["p99"], "{:.3f}")));
    const json& same = m["top1_agreement"];
    line("same top token", same.is_number() ? fmt::format("{:.1f} %", 100 * same.get<double>()) : "-");
  } else {
    line("evaluated on", "nothing (no held-back text)");
  }
  line("size", fmt::format("{}, {:.3f} bits per weight ({:.3f} in the quantized linears); before {}",
                           size_text(m["bytes"].get<uint64_t>()), m["bits_per_weight"].get<double>(),
                           m["linears_bits_per_weight"].get<double>(), size_text(m["source_bytes"].get<uint64_t>())));
  const json& run = r["run"];
  line("cost", fmt::format("{}, {} of processors, peak memory {}", duration_text(run["seconds"].get<double>()),
                           duration_text(run["cpu_seconds"].get<double>()),
                           memory_text(run["peak_memory_bytes"].get<uint64_t>())));
  out += fmt::format("\n{:<12} {:>6} {:>13} {:>13} {:>13}   {}\n", "linear", "count", "weight error", "output error",
                     "held back", "worst held back");
  for (const KindRow& k : by_kind(r["linears"])) {
    const auto mean = [](double sum, int64_t n) {
      return n > 0 ? fmt::format("{:.4f}", sum / static_cast<double>(n)) : std::string("-");
    };
    out += fmt::format("{:<12} {:>6} {:>13} {:>13} {:>13}   {}\n", k.kind, k.count, mean(k.weight, k.count),
                       mean(k.output, k.measured), mean(k.held_back, k.held_back_measured),
                       k.held_back_measured > 0 ? fmt::format("{:.4f} {}", k.worst, k.worst_name) : "-");
  }
  if (!r["mixed"].is_null()) out += "\nBits of each linear. " + mixed_text(r["mixed"], 20);
  out += fmt::format("\n{:<20} {:>9} {:>9} {:>7}\n", "stage", "seconds", "CPU s", "share");
  std::vector<std::pair<std::string, json>> stages;
  for (const auto& [name, time] : run["stages"].items()) stages.emplace_back(name, time);
  std::sort(stages.begin(), stages.end(), [](const auto& a, const auto& b) {
    return a.second["seconds"].template get<double>() > b.second["seconds"].template get<double>();
  });
  for (const auto& [name, time] : stages) {
    if (time["seconds"].get<double>() < 0.005) continue;
    out += fmt::format("{:<20} {:>9.2f} {:>9.2f} {:>6.1f}%\n", name, time["seconds"].get<double>(),
                       time["cpu_seconds"].get<double>(),
                       100 * time["seconds"].get<double>() / std::max(run["seconds"].get<double>(), 1e-9));
  }
  const auto list = [&](const char* title, const json& entries, const std::function<std::string(const json&)>& text) {
    if (entries.empty()) return;
    out += fmt::format("\n{} ({})\n", title, entries.size());
    for (size_t i = 0; i < std::min<size_t>(entries.size(), 20); ++i) out += "  " + text(entries[i]) + "\n";
    if (entries.size() > 20) out += fmt::format("  ... and {} more, all in report.json\n", entries.size() - 20);
  };
  list("Skipped: not quantized, and why", r["skipped"],
       [](const json& s) { return s["name"].get<std::string>() + ": " + s["reason"].get<std::string>(); });
  list("Warnings", r["warnings"], [](const json& w) { return w.get<std::string>(); });
  list("Fewer than 4 calibration tokens for each input channel", r["calibration"].value("few_tokens", json::array()),
       few_tokens_text);
  list("Clamped or flushed: beyond the range of float16", r["clamped"],
       [](const json& c) { return fmt::format("{}: {}", c["name"].get<std::string>(), clamped_text(c)); });
  if (!r["kept_in_16_bits"].empty()) {
    out += fmt::format("\nLeft in 16 bits or more ({})\n", r["kept_in_16_bits"].size());
    for (const auto& [name, count] : names_by_kind(r["kept_in_16_bits"]))
      out += count == 1 ? fmt::format("  {}\n", name) : fmt::format("  {} ({})\n", name, count);
  }
  if (const json c = r.value("rounding_choice", json()); c.is_object()) out += "\n" + rounding_choice_text(c) + "\n";
  out += fmt::format("\nlargest change of a block by folding: {:.1e}\n", r["invariance_error"].get<double>());
  if (r["gate"]["max_kl"].is_number()) {
    const char* verdict = only_estimated(r)                 ? "met by the estimate, not measured"
                          : r["gate"]["passed"].get<bool>() ? "passed"
                                                            : "MISSED";
    out += fmt::format("quality gate: mean KL divergence at most {}: {}\n", r["gate"]["max_kl"].get<double>(), verdict);
  }
  return out;
}

std::string render_plan(const std::string& plan_json) {
  const json p = json::parse(plan_json);
  std::string out;
  const auto line = [&](const std::string& name, const std::string& value) {
    out += fmt::format("{:<20} {}\n", name, value);
  };
  const auto memory = [](const json& bytes) { return memory_text(bytes.get<uint64_t>()); };
  line("model", p["model"].get<std::string>());
  line("output", p["output"].get<std::string>());
  const json& o = p["options"];
  const bool mixed = o["mixed_bits"].get<bool>();
  const std::string bits = !mixed ? fmt::format("{} bits", o["bits"].get<int>())
                           : o["target_bits"].is_number()
                               ? fmt::format("at most {:g} bits per weight", o["target_bits"].get<double>())
                               : fmt::format("the bits that an estimated KL of {:g} takes", o["max_kl"].get<double>());
  line("method", fmt::format("{}, {}, {}, group size {}", o["method"].get<std::string>(),
                             o["scheme"].get<std::string>(), bits, o["group_size"].get<int64_t>()));
  line("quantized", fmt::format("{} weight tensors, {:.1f} M weights, {}", p["quantized"].size(),
                                p["quantized_weights"].get<double>() / 1e6, memory(p["quantized_bytes"])));
  const auto builtin = p["builtin_tokens"].get<int64_t>();
  line("tokens",
       fmt::format("{} for calibration{}, {} held back", p["calibration_tokens"].get<int64_t>(),
                   builtin > 0 ? fmt::format(" ({} of them from the program's own text)", builtin) : std::string(),
                   p["held_back_tokens"].get<int64_t>()));
  const json& m = p["memory"];
  line("peak memory", fmt::format("{} of {} allowed", memory(m["peak_bytes"]), memory(p["memory_budget"])));
  for (const char* part : {"base", "states", "spilled", "block", "statistics", "forward_scratch", "quantize_scratch",
                           "head", "self_text", "selection", "sensitivity"}) {
    if (m[part].get<uint64_t>() > 0) line("  " + part_name(part), memory(m[part]));
  }
  line("disk", fmt::format("{} of {} free", memory(m["disk"]), memory(p["disk_free_bytes"])));
  line("time", fmt::format("about {} on {} threads of {} ({:.0f} GFLOP/s per core)",
                           duration_text(p["seconds"]["total"].get<double>()), p["machine"]["threads"].get<int>(),
                           p["machine"]["cpu"].get<std::string>(), p["machine"]["gemm_gflops_per_core"].get<double>()));
  for (const auto& [name, seconds] : p["seconds"].items()) {
    if (name != "total" && seconds.get<double>() > 0)
      line("  " + part_name(name), duration_text(seconds.get<double>()));
  }
  for (const json& s : p["skipped"])
    line("skipped", s["name"].get<std::string>() + ": " + s["reason"].get<std::string>());
  return out;
}

}  // namespace metal_marlin

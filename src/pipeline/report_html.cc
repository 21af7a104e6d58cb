// report.html: one self-contained page, drawings as inline SVG, no script.
#include <fmt/format.h>
#include <metal_marlin/report.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "pipeline/mixed_report.h"
#include "pipeline/report_check.h"
#include "pipeline/report_lists.h"
#include "pipeline/run_report.h"
#include "pipeline/size.h"
#include "pipeline/texts.h"

namespace metal_marlin {
namespace {

using nlohmann::json;

std::string escape(const std::string& text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string cell(const json& value, const char* format = "{:.4f}") {
  if (value.is_null()) return "&ndash;";
  if (value.is_number_integer()) return fmt::format("{}", value.get<int64_t>());
  if (value.is_number()) return fmt::format(fmt::runtime(format), value.get<double>());
  return escape(value.is_string() ? value.get<std::string>() : value.dump());
}

std::string percent(const json& share) {
  return share.is_number() ? fmt::format("{:.2f} %", 100 * share.get<double>()) : "&ndash;";
}

// [576, 1536] -> 576 x 1536.
std::string shape_text(const json& shape) {
  std::string out;
  for (const json& size : shape) out += (out.empty() ? "" : " &times; ") + cell(size);
  return out;
}

// -1 is a whole row.
std::string group_cell(const json& size) {
  return size.is_number() && size.get<int64_t>() < 0 ? "a row" : cell(size);
}
std::string groups_text(const json& size) {
  return size.is_number() && size.get<int64_t>() < 0 ? "a group for each row" : "groups of " + cell(size);
}

// "<h2>Warnings (3)</h2>", with "none" below an empty list.
std::string list_title(const char* title, const json& entries) {
  return fmt::format("<h2>{} ({})</h2>{}", title, entries.size(), entries.empty() ? "<p class=\"small\">none</p>" : "");
}

// Cells are HTML already. No rows: nothing.
class Table {
 public:
  explicit Table(const std::vector<std::string>& head) { add(head, "th"); }
  void row(const std::vector<std::string>& cells) {
    add(cells, "td");
    empty_ = false;
  }
  std::string html() const { return empty_ ? std::string() : "<table class=\"small\">" + rows_ + "</table>"; }

 private:
  void add(const std::vector<std::string>& cells, const char* tag) {
    rows_ += "<tr>";
    for (const std::string& text : cells) rows_ += fmt::format("<{0}>{1}</{0}>", tag, text);
    rows_ += "</tr>";
  }
  std::string rows_;
  bool empty_ = true;
};

// "model.layers.12.mlp.up_proj.weight" -> 12, "up_proj".
std::pair<int64_t, std::string> place(const std::string& name) {
  int64_t layer = 0;
  for (size_t i = 0; i < name.size(); ++i) {
    if (name[i] == '.' && i + 1 < name.size() && std::isdigit(static_cast<unsigned char>(name[i + 1])) != 0) {
      std::from_chars(name.data() + i + 1, name.data() + name.size(), layer);
      break;
    }
  }
  const std::string module = name.substr(0, name.rfind(".weight"));
  const std::string part = name.find('[') == std::string::npos ? "" : name.substr(name.find('['));
  return {layer, module.substr(module.rfind('.') + 1) + part};
}

// Output error by layer, one line per kind of linear.
std::string error_plot(const json& linears) {
  const bool held = !linears.empty() && linears[0]["held_back_output_error"].is_number();
  const char* key = held ? "held_back_output_error" : "output_error";
  std::map<std::string, std::map<int64_t, double>> lines;
  int64_t layers = 1;
  double top = 1e-9;
  for (const json& l : linears) {
    if (!l[key].is_number()) continue;
    const auto [layer, kind] = place(l["name"].get<std::string>());
    const double e = l[key].get<double>();
    lines[kind][layer] = e;
    layers = std::max(layers, layer);
    top = std::max(top, e);
  }
  if (lines.empty()) return "";
  constexpr int kWidth = 760;
  constexpr int kHeight = 260;
  constexpr const char* kColours[] = {"#1b6ca8", "#c8553d", "#588157", "#8e6c8a", "#e09f3e", "#2a9d8f", "#6c757d"};
  std::string svg =
      fmt::format("<h2>Relative output error by layer ({})</h2><svg viewBox=\"0 0 {} {}\" role=\"img\" class=\"plot\">",
                  held ? "held-back text" : "calibration text", kWidth + 150, kHeight + 40);
  for (int i = 0; i <= 4; ++i) {
    const double y = kHeight - kHeight * i / 4.0 + 10;
    svg += fmt::format(
        "<line x1=\"50\" x2=\"{}\" y1=\"{}\" y2=\"{}\" stroke=\"#ddd\"/><text x=\"44\" y=\"{}\" "
        "text-anchor=\"end\">{:.3f}</text>",
        kWidth, y, y, y + 4, top * i / 4);
  }
  size_t colour = 0;
  for (const auto& [kind, points] : lines) {
    std::string path;
    for (const auto& [layer, e] : points) {
      path +=
          fmt::format("{:.1f},{:.1f} ", 50 + (kWidth - 50) * static_cast<double>(layer) / static_cast<double>(layers),
                      kHeight + 10 - kHeight * e / top);
    }
    const char* stroke = kColours[colour % 7];
    svg += fmt::format("<polyline fill=\"none\" stroke=\"{}\" stroke-width=\"1.6\" points=\"{}\"/>", stroke, path);
    svg += fmt::format("<text x=\"{}\" y=\"{}\" fill=\"{}\">{}</text>", kWidth + 14, 24 + 18 * colour, stroke,
                       escape(kind));
    ++colour;
  }
  svg += fmt::format("<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">layer 0 .. {}</text></svg>", kWidth / 2,
                     kHeight + 34, layers);
  return svg;
}

constexpr const char* kStyle =
    "body{font:15px/1.45 system-ui,sans-serif;color:#222;max-width:960px;margin:2em auto;padding:0 "
    "1em}h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em}"
    "table{border-collapse:collapse;font-variant-numeric:tabular-nums}td,th{padding:.2em .8em .2em "
    "0;text-align:left;border-bottom:1px solid #eee}"
    "td.n{text-align:right}.plot{width:100%;font-size:12px}.small{font-size:.85em}.miss{color:#b00020;font-weight:600}";

}  // namespace

std::string render_report_html(const std::string& report_json) {
  const json r = parse_report(report_json, "report.json");
  const json& m = r["model"];
  std::string h =
      "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
      "content=\"width=device-width\"><title>Quantization report</title><style>";
  h += kStyle;
  h += "</style></head><body><h1>Quantization report</h1><table>";
  const auto row = [&](const std::string& name, const std::string& value) {
    h += "<tr><th>" + name + "</th><td>" + value + "</td></tr>";
  };
  row("model", cell(r["input"]["path"]));
  const std::string bits =
      r["mixed"].is_null() ? cell(r["options"]["bits"]) + " bits, " + groups_text(r["options"]["group_size"])
                           : cell(r["mixed"]["bits_per_weight"], "{:.3f}") + " bits per weight, chosen for each linear";
  row("method", fmt::format("{}, {}, {}", cell(r["options"]["method"]), cell(r["options"]["scheme"]), bits));
  row("calibration", fmt::format("{}: {} tokens", cell(r["calibration"]["source"]), cell(r["calibration"]["tokens"])));
  if (const std::string details = calibration_details(r["calibration"]); !details.empty())
    row("calibration text", escape(details));
  const bool evaluated = m["kl_divergence"]["mean"].is_number();
  row("evaluated on", evaluated ? fmt::format("{}: {} positions", cell(r["held_back"]["source"]), cell(m["positions"]))
                                : "nothing (no held-back text)");
  if (evaluated)
    row("perplexity",
        cell(m["perplexity"]["reference"], "{:.3f}") + " &rarr; " + cell(m["perplexity"]["quantized"], "{:.3f}"));
  if (evaluated)
    row("KL divergence", cell(m["kl_divergence"]["mean"]) + " &plusmn; " + cell(m["kl_divergence"]["standard_error"]) +
                             ", p99 " + cell(m["kl_divergence"]["p99"], "{:.3f}"));
  if (evaluated) row("same top token", percent(m["top1_agreement"]));
  row("size", fmt::format("{}, {} bits per weight; before {}", size_text(m["bytes"].get<uint64_t>()),
                          cell(m["bits_per_weight"], "{:.3f}"), size_text(m["source_bytes"].get<uint64_t>())));
  row("cost", fmt::format("{}, {} of processors, peak memory {}", duration_text(r["run"]["seconds"].get<double>()),
                          duration_text(r["run"]["cpu_seconds"].get<double>()),
                          memory_text(r["run"]["peak_memory_bytes"].get<uint64_t>())));
  if (r["gate"]["max_kl"].is_number()) {
    const bool estimated = only_estimated(r);
    const bool passed = estimated || r["gate"]["passed"].get<bool>();
    row("quality gate",
        fmt::format("<span class=\"{}\">KL at most {}: {}</span>", passed ? "" : "miss", cell(r["gate"]["max_kl"]),
                    estimated ? "met by the estimate, not measured"
                    : passed  ? "passed"
                              : "missed"));
  }
  h += "</table>";
  if (const json choice = r.value("rounding_choice", json()); choice.is_object())
    h += "<p>" + escape(rounding_choice_text(choice)) + ".</p>";
  h += error_plot(r["linears"]) + mixed_html(r["mixed"]);
  h += "<h2>Stages</h2><table><tr><th>stage</th><th>seconds</th><th>CPU seconds</th></tr>";
  for (const auto& [name, time] : r["run"]["stages"].items()) {
    h += fmt::format("<tr><td>{}</td><td class=\"n\">{:.2f}</td><td class=\"n\">{:.2f}</td></tr>", escape(name),
                     time["seconds"].get<double>(), time["cpu_seconds"].get<double>());
  }
  h += "</table><h2>Linears</h2><table "
       "class=\"small\"><tr><th>name</th><th>shape</th><th>bits</th><th>group</th><th>weight error</th><th>output "
       "error</th><th>held back</th><th>clipped</th><th>saturated</th></tr>";
  for (const json& l : r["linears"]) {
    h += fmt::format(
        "<tr><td>{}</td><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td "
        "class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
        cell(l["name"]), shape_text(l["shape"]), cell(l.value("bits", json())),
        group_cell(l.value("group_size", json())), cell(l["weight_error"]), cell(l["output_error"]),
        cell(l["held_back_output_error"]), percent(l["clipped_share"]), percent(l["saturated_share"]));
  }
  h += "</table>";
  h += list_title("Warnings", r["warnings"]);
  if (!r["warnings"].empty()) {
    h += "<ul class=\"small\">";
    for (const json& warning : r["warnings"]) h += "<li>" + cell(warning) + "</li>";
    h += "</ul>";
  }
  Table skipped({"tensor", "reason"});
  for (const json& s : r["skipped"]) skipped.row({cell(s["name"]), cell(s["reason"])});
  h += list_title("Skipped: not quantized, and why", r["skipped"]) + skipped.html();
  const json few_tokens = r["calibration"].value("few_tokens", json::array());
  Table few({"tensor", "tokens", "channels"});
  for (const json& f : few_tokens) few.row({cell(f["name"]), cell(f["tokens"]), cell(f["in_features"])});
  h += list_title("Fewer than 4 calibration tokens for each input channel", few_tokens) + few.html();
  Table clamped({"tensor", "format", "what happened"});
  for (const json& c : r["clamped"])
    clamped.row({cell(c["name"]), c.contains("format") ? cell(c["format"]) : "all", escape(clamped_text(c))});
  h += list_title("Clamped or flushed: beyond the range of float16", r["clamped"]) + clamped.html();
  Table kept({"tensor", "how many"});
  for (const auto& [name, count] : names_by_kind(r["kept_in_16_bits"]))
    kept.row({escape(name), fmt::format("{}", count)});
  h += list_title("Left in 16 bits or more", r["kept_in_16_bits"]) + kept.html();
  h += fmt::format("<p class=\"small\">metal-marlin {} on {}, {} threads; report schema {}</p></body></html>\n",
                   cell(r["run"]["version"]), cell(r["run"]["machine"]["cpu"]), cell(r["run"]["machine"]["threads"]),
                   cell(r["schema"]));
  return h;
}

}  // namespace metal_marlin

#include "report/card_facts.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <string_view>
#include <vector>

#include "core/counted.h"
#include "core/files/atomic_file.h"
#include "core/files/model_file.h"
#include "formats/json/bounded_json.h"
#include "layouts/layouts.h"
#include "records/options.h"
#include "report/render/report_words.h"
#include "report/render/text_words.h"
#include "report/report_check.h"
#include "report/run_report.h"
#include "text/texts.h"

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr uint64_t kLargestCard = 1 << 20;
constexpr uint64_t kLargestReport = 256 << 20;

// The text of a regular file of at most `most` bytes. What a link out of the folder leads to is no part of the model,
// and would stand in what is published.
std::optional<std::string> text_of(const fs::path& folder, const char* name, uint64_t most) {
  try {
    const ModelFolder place(folder.string());
    return read_text_file(place.open(name), place.folder().path_of(name), most);
  } catch (const Error&) {
    return std::nullopt;
  }
}

std::optional<Report> report_in(const fs::path& folder) {
  const auto text = text_of(folder, "report.json", kLargestReport);
  if (!text) return std::nullopt;
  try {
    return parse_report(*text, (folder / "report.json").string());
  } catch (const Error&) {
    return std::nullopt;
  }
}

CardFacts facts_of_report(const Report& report) {
  CardFacts facts;
  facts.name = model_name(report);
  facts.calibration = calibration_text(report.calibration, report.calibration.made_from);
  if (!report.model.kl_divergence.mean) return facts;
  const HeldBackRecord& held_back = report.held_back;
  facts.evaluation = fmt::format("{}: {}",
                                 held_back.kind == "file" ? fs::path(held_back.source).filename().string()
                                                          : std::string("held-back part of the calibration text"),
                                 counted(held_back.chunks, "chunk"));
  // All chunks are of one length.
  if (held_back.tokens > 0 && held_back.chunks > 0)
    facts.evaluation += fmt::format(" of {}", counted(held_back.tokens / held_back.chunks, "token"));
  facts.figures = card_figures(report.model);
  return facts;
}

// `  "key": value` of the front matter that render_model_card() writes: values are JSON.
struct Entry {
  size_t indent = 0;
  std::string key;
  std::optional<json> value;  // none: an object follows
};
std::optional<Entry> entry_of(const std::string& line) {
  Entry entry;
  entry.indent = std::min(line.find_first_not_of(' '), line.size());
  const size_t end = line.find("\":", entry.indent);
  if (entry.indent == line.size() || line[entry.indent] != '"' || end == std::string::npos) return std::nullopt;
  entry.key = line.substr(entry.indent + 1, end - entry.indent - 1);
  const std::string rest = line.substr(end + 2);
  if (rest.find_first_not_of(' ') == std::string::npos) return entry;
  json value = parse_json_or_discard(rest);
  if (value.is_discarded() || value.is_structured()) return std::nullopt;
  entry.value = std::move(value);
  return entry;
}

// Lines behind `heading:` that are indented, as an object. Two levels are all that a card has.
json section_of(const std::vector<std::string>& lines, std::string_view heading) {
  json out = json::object();
  std::string outer;
  bool inside = false;
  for (const std::string& line : lines) {
    if (!line.starts_with(" ")) {
      inside = line == heading;
      continue;
    }
    const auto entry = inside ? entry_of(line) : std::nullopt;
    if (!entry) continue;
    if (entry->indent <= 2) {
      outer = entry->value ? "" : entry->key;
      if (entry->value) out[entry->key] = *entry->value;
    } else if (!outer.empty() && entry->value) {
      out[outer][entry->key] = *entry->value;
    }
  }
  return out;
}

// The figures that render_model_card() writes. What is no number is not taken.
EvaluationRecord figures_of(const json& section) {
  const auto number = [&](const char* pointer) {
    const json::json_pointer place(pointer);
    const bool there = section.contains(place) && section[place].is_number();
    return there ? std::optional(section[place].get<double>()) : std::nullopt;
  };
  EvaluationRecord out;
  out.perplexity = {number("/perplexity/reference"), number("/perplexity/quantized")};
  out.kl_divergence = {number("/kl_divergence/mean"), number("/kl_divergence/standard_error"),
                       number("/kl_divergence/p99")};
  out.top1_agreement = number("/top1_agreement");
  if (const json n = section.value("positions", json()); n.is_number_integer()) out.positions = n.get<int64_t>();
  return out;
}

CardFacts facts_of_card(const std::string& card) {
  CardFacts facts;
  std::istringstream stream(card);
  std::vector<std::string> front;
  std::string line;
  int rules = 0;
  while (std::getline(stream, line)) {
    if (line == "---") {
      ++rules;
    } else if (rules == 1) {
      front.push_back(line);
    } else if (line.starts_with("# ") && facts.name.empty()) {
      const size_t end = line.rfind(" in ");
      if (end != std::string::npos && line.ends_with(" bits") && end > 2) facts.name = line.substr(2, end - 2);
    }
  }
  const bool ours = std::find(front.begin(), front.end(), "- metal-marlin") != front.end();
  if (rules < 2 || !ours) return {};
  for (const std::string& entry : front) {
    if (entry.starts_with("base_model: ")) facts.name = entry.substr(12);
  }
  const json quantization = section_of(front, "quantization:");
  if (const json c = quantization.value("calibration", json()); c.is_string()) facts.calibration = c.get<std::string>();
  const json figures = section_of(front, "figures:");
  if (const json text = figures.value("text", json()); text.is_string()) facts.evaluation = text.get<std::string>();
  facts.figures = figures_of(figures);
  return facts;
}

}  // namespace

CardFacts card_facts(const std::string& path) {
  std::error_code code;
  fs::path folder = fs::is_directory(path, code) ? fs::path(path) : fs::path(path).parent_path();
  if (!folder.has_filename()) folder = folder.parent_path();
  if (const auto report = report_in(folder)) return facts_of_report(*report);
  if (const auto report = report_in(folder.parent_path())) {
    const auto formats = option<std::vector<std::string>>(report->options, "formats");
    const bool lists =
        formats && formats->size() > 1 && std::any_of(formats->begin(), formats->end(), [&](const std::string& format) {
          return format_folder(format) == folder.filename().string();
        });
    if (lists) return facts_of_report(*report);
  }
  const auto card = text_of(folder, "README.md", kLargestCard);
  return card ? facts_of_card(*card) : CardFacts();
}

EvaluationRecord card_figures(const EvaluationRecord& model) {
  EvaluationRecord out;
  if (!model.kl_divergence.mean) return out;
  out.perplexity = model.perplexity;
  out.kl_divergence = model.kl_divergence;
  out.top1_agreement = model.top1_agreement;
  out.positions = model.positions;
  return out;
}

}  // namespace metal_marlin

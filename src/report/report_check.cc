#include "report/report_check.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "formats/json/bounded_json.h"
#include "formats/json/json_fault.h"
#include "formats/text.h"
#include "records/json_records.h"
#include "records/options.h"
#include "report/gate.h"

namespace metal_marlin {
namespace {

using nlohmann::json;

std::string shown_json(const json& value) {
  return shown(value.dump(-1, ' ', false, json::error_handler_t::replace));
}

// What follows from one value for another.
void check_values(const Report& report, const RecordFault& fail) {
  for (const char* key : {"method", "scheme"}) {
    if (!option<std::string>(report.options, key)) fail(std::string("options/") + key, "a text", "another value");
  }
  for (const char* key : {"bits", "group_size"}) {
    if (!option<int64_t>(report.options, key)) fail(std::string("options/") + key, "an integer", "another value");
  }
  if (report.gate.max_kl && !report.gate.passed && !only_estimated(report))
    fail("gate/passed", "true or false", "null");
  if (!report.mixed) return;
  constexpr const char* kInputNames[] = {"qkv", "o", "gate_up", "down"};
  for (size_t i = 0; i < report.mixed->items.size(); ++i) {
    const SensitivityItem& item = report.mixed->items[i];
    const std::string place = fmt::format("mixed/items/{}/", i);
    if (std::find(std::begin(kInputNames), std::end(kInputNames), item.tap) == std::end(kInputNames))
      fail(place + "tap", "qkv, o, gate_up or down", shown(item.tap));
    if (!item.chosen) fail(place + "chosen", "an object", "nothing");
  }
}

}  // namespace

Report parse_report(const std::string& text, const std::string& name) {
  if (const auto excess = json_excess(text, {.depth = 32, .values = 4'000'000}))
    throw FormatError(fmt::format("{}: expected a report, found one with more than {}", name, excess->bound));
  const json value = parse_json_or_discard(text);
  if (value.is_discarded()) {
    const size_t first = text.find_first_not_of(" \t\r\n");
    // What does not begin as a report was never one: another file was named.
    if (first == std::string::npos || text[first] != '{') {
      constexpr size_t kShown = 60;
      throw FormatError(fmt::format(
          "{}: expected a report that quantize wrote, found {}; name the folder of a run, or the report.json in it",
          name,
          first == std::string::npos ? std::string("an empty file")
                                     : fmt::format("a file that begins with {}", shown(text.substr(first, kShown)))));
    }
    throw FormatError(fmt::format("{}: {}; the report is damaged: run quantize again", name, json_fault_text(text)));
  }
  if (!value.is_object() || !value.contains("schema") || !value.contains("model")) {
    throw FormatError(fmt::format(
        "{}: expected a report that quantize wrote (an object with schema, options, model, ...), found other JSON",
        name));
  }
  if (value["schema"] != kReportSchema) {
    throw UnsupportedError(
        fmt::format("{}: expected a report of schema {}, found schema {}; render it with the version that wrote it",
                    name, kReportSchema, shown_json(value["schema"])));
  }
  const RecordFault fail = [&](const std::string& place, const std::string& expected, const std::string& found) {
    throw FormatError(
        fmt::format("{}: {}: expected {}, found {}; the report is damaged or not whole: run quantize again", name,
                    escaped(place), expected, found));
  };
  Report report = record_of<Report>(value, fail);
  check_values(report, fail);
  return report;
}

}  // namespace metal_marlin

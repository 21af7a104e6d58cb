// The public to_json() of records, and back.
#include <metal_marlin/bench.h>
#include <metal_marlin/check.h>
#include <metal_marlin/convert.h>
#include <metal_marlin/diff.h>
#include <metal_marlin/error.h>
#include <metal_marlin/evaluate.h>
#include <metal_marlin/inspect.h>
#include <metal_marlin/plan_records.h>
#include <metal_marlin/quantize.h>
#include <metal_marlin/report_records.h>

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "core/border.h"
#include "formats/json/bounded_json.h"
#include "formats/text.h"
#include "records/json_records.h"
#include "records/json_writer.h"

namespace metal_marlin {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

template <class Json>
std::string dumped(const Json& value) {
  return value.dump(2, ' ', false, Json::error_handler_t::replace);
}

// Keys stand in the order of their names, or of the fields with ordered_json.
template <class Json = json, class Record>
std::string text_of(const Record& record) try {
  return dumped(value_of<Json>(record));
} catch (...) {
  rethrow_as_error("to_json");
}

}  // namespace

// What was measured stands in it as SensitivityReport::to_json() has it.
std::string Inspection::to_json() const try {
  auto value = value_of<ordered_json>(*this);
  if (sensitivity) value["sensitivity"] = ordered_json(value_of<json>(*sensitivity));
  return dumped(value);
} catch (...) {
  rethrow_as_error("to_json");
}

std::string Comparison::to_json() const {
  return text_of<ordered_json>(*this);
}

std::string CheckResult::to_json() const {
  return text_of<ordered_json>(*this);
}

std::string DiffResult::to_json() const {
  return text_of<ordered_json>(*this);
}

std::string ConvertResult::to_json() const {
  return text_of<ordered_json>(*this);
}

std::string CalibrateResult::to_json() const {
  return text_of<ordered_json>(*this);
}

// The report stands in it as Report::to_json() has it.
std::string QuantizeResult::to_json() const try {
  auto value = value_of<ordered_json>(*this);
  value["report"] = ordered_json(value_of<json>(report));
  return dumped(value);
} catch (...) {
  rethrow_as_error("to_json");
}

std::string Evaluation::to_json() const {
  return text_of(*this);
}

std::string BenchResult::to_json() const {
  return text_of(*this);
}

std::string Report::to_json() const {
  return text_of(*this);
}

std::string Plan::to_json() const {
  return text_of(*this);
}

std::string SensitivityReport::to_json() const {
  return text_of(*this);
}

SensitivityReport sensitivity_from_json(const std::string& text, const std::string& name) try {
  return record_of<SensitivityReport>(
      parse_json(text, name), [&](const std::string& place, const std::string& expected, const std::string& found) {
        throw FormatError(fmt::format("{}: {}expected {}, found {}", name, place.empty() ? "" : escaped(place) + ": ",
                                      expected, found));
      });
} catch (...) {
  rethrow_as_error("sensitivity_from_json");
}

}  // namespace metal_marlin

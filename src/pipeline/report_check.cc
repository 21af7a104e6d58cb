#include "pipeline/report_check.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <span>

#include "formats/json_bounds.h"
#include "formats/json_fault.h"
#include "formats/text.h"
#include "pipeline/mixed_report.h"
#include "pipeline/printable.h"
#include "pipeline/run_report.h"

namespace metal_marlin {
namespace {

using nlohmann::json;

enum class Kind : uint8_t { kText, kNumber, kNumberOrNull, kCount, kBoolOrNull, kObject, kList };
struct Key {
  const char* path;  // JSON pointer
  Kind kind;
};

constexpr Key kKeys[] = {
    {"/input/path", Kind::kText},
    {"/options/method", Kind::kText},
    {"/options/scheme", Kind::kText},
    {"/options/bits", Kind::kCount},
    {"/options/group_size", Kind::kCount},
    {"/calibration/source", Kind::kText},
    {"/calibration/sequences", Kind::kCount},
    {"/calibration/tokens", Kind::kCount},
    {"/held_back/source", Kind::kText},
    {"/held_back/chunks", Kind::kCount},
    {"/model/positions", Kind::kCount},
    {"/model/perplexity/reference", Kind::kNumberOrNull},
    {"/model/perplexity/quantized", Kind::kNumberOrNull},
    {"/model/kl_divergence/mean", Kind::kNumberOrNull},
    {"/model/kl_divergence/standard_error", Kind::kNumberOrNull},
    {"/model/kl_divergence/p99", Kind::kNumberOrNull},
    {"/model/top1_agreement", Kind::kNumberOrNull},
    {"/model/bytes", Kind::kCount},
    {"/model/bits_per_weight", Kind::kNumber},
    {"/model/linears_bits_per_weight", Kind::kNumber},
    {"/model/source_bytes", Kind::kCount},
    {"/run/version", Kind::kText},
    {"/run/seconds", Kind::kNumber},
    {"/run/cpu_seconds", Kind::kNumber},
    {"/run/peak_memory_bytes", Kind::kCount},
    {"/run/stages", Kind::kObject},
    {"/run/machine/cpu", Kind::kText},
    {"/run/machine/threads", Kind::kCount},
    {"/linears", Kind::kList},
    {"/skipped", Kind::kList},
    {"/clamped", Kind::kList},
    {"/kept_in_16_bits", Kind::kList},
    {"/invariance_error", Kind::kNumber},
    {"/gate/max_kl", Kind::kNumberOrNull},
    {"/gate/passed", Kind::kBoolOrNull},
};
constexpr Key kLinearKeys[] = {{"/name", Kind::kText},
                               {"/shape", Kind::kList},
                               {"/weight_error", Kind::kNumber},
                               {"/output_error", Kind::kNumberOrNull},
                               {"/held_back_output_error", Kind::kNumberOrNull},
                               {"/clipped_share", Kind::kNumberOrNull},
                               {"/saturated_share", Kind::kNumberOrNull}};
constexpr Key kSkippedKeys[] = {{"/name", Kind::kText}, {"/reason", Kind::kText}};
constexpr Key kClampedKeys[] = {{"/name", Kind::kText}};
constexpr Key kFewTokensKeys[] = {{"/name", Kind::kText}, {"/tokens", Kind::kCount}, {"/in_features", Kind::kCount}};
constexpr Key kRoundingKeys[] = {{"/sequences", Kind::kCount},
                                 {"/refined", Kind::kCount},
                                 {"/feedback", Kind::kCount},
                                 {"/nearest", Kind::kCount},
                                 {"/fallbacks", Kind::kCount}};
constexpr Key kPartKeys[] = {
    {"/name", Kind::kText}, {"/weights", Kind::kCount}, {"/bytes", Kind::kCount}, {"/source_bytes", Kind::kCount}};
constexpr Key kFormatKeys[] = {{"/format", Kind::kText}, {"/bytes", Kind::kCount}};
constexpr Key kStageKeys[] = {{"/seconds", Kind::kNumber}, {"/cpu_seconds", Kind::kNumber}};

bool is_count(const json& value) {
  if (value.is_number_unsigned())
    return value.get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  return value.is_number_integer();
}

bool has_kind(const json& value, Kind kind) {
  switch (kind) {
    case Kind::kText:
      return value.is_string();
    case Kind::kNumber:
      return value.is_number();
    case Kind::kNumberOrNull:
      return value.is_number() || value.is_null();
    case Kind::kCount:
      return is_count(value);
    case Kind::kBoolOrNull:
      return value.is_boolean() || value.is_null();
    case Kind::kObject:
      return value.is_object();
    case Kind::kList:
      return value.is_array();
  }
  return false;
}

const char* kind_name(Kind kind) {
  switch (kind) {
    case Kind::kText:
      return "a text";
    case Kind::kNumber:
      return "a number";
    case Kind::kNumberOrNull:
      return "a number or null";
    case Kind::kCount:
      return "an integer";
    case Kind::kBoolOrNull:
      return "true, false or null";
    case Kind::kObject:
      return "an object";
    case Kind::kList:
      return "a list";
  }
  return "";
}

class Checker {
 public:
  explicit Checker(const std::string& name) : name_(name) {}

  void check(const json& object, std::span<const Key> keys, const std::string& place) const {
    for (const Key& key : keys) {
      const json::json_pointer pointer(key.path);
      const bool there = object.is_structured() && object.contains(pointer);
      if (there && has_kind(object[pointer], key.kind)) continue;
      fail(place + (key.path + 1), kind_name(key.kind), there ? &object[pointer] : nullptr);
    }
  }
  void check_each(const json& list, std::span<const Key> keys, const std::string& place) const {
    size_t i = 0;
    for (const json& entry : list) check(entry, keys, fmt::format("{}/{}/", place, i++));
  }
  [[noreturn]] void fail(const std::string& place, const std::string& expected, const json* found) const {
    throw FormatError(fmt::format(
        "{}: {}: expected {}, found {}; the report is damaged or not whole: run quantize again", name_, place, expected,
        found == nullptr ? "nothing" : shown(found->dump(-1, ' ', false, json::error_handler_t::replace))));
  }

 private:
  const std::string& name_;
};

}  // namespace

json parse_report(const std::string& text, const std::string& name) {
  if (const auto excess = json_excess(text, {.depth = 32}))
    throw FormatError(fmt::format("{}: expected a report, found one with more than {}", name, excess->bound));
  json report = json::parse(text, nullptr, false);
  if (report.is_discarded())
    throw FormatError(fmt::format("{}: {}; the report is damaged: run quantize again", name, json_fault_text(text)));
  if (!report.is_object() || !report.contains("schema") || !report.contains("model")) {
    throw FormatError(fmt::format(
        "{}: expected a report that quantize wrote (an object with schema, options, model, ...), found other JSON",
        name));
  }
  if (report["schema"] != kReportSchema) {
    throw UnsupportedError(
        fmt::format("{}: expected a report of schema {}, found schema {}; render it with the version that wrote it",
                    name, kReportSchema, shown(report["schema"].dump(-1, ' ', false, json::error_handler_t::replace))));
  }
  const Checker checker(name);
  checker.check(report, kKeys, "");
  if (!report.contains("mixed")) report["mixed"] = nullptr;
  check_mixed_section(report["mixed"], name);
  checker.check_each(report["linears"], kLinearKeys, "linears");
  checker.check_each(report["skipped"], kSkippedKeys, "skipped");
  checker.check_each(report["clamped"], kClampedKeys, "clamped");
  for (const json& kept : report["kept_in_16_bits"]) {
    if (!kept.is_string()) checker.fail("kept_in_16_bits", "texts", &kept);
  }
  if (report["gate"]["max_kl"].is_number() && !report["gate"]["passed"].is_boolean() && !only_estimated(report)) {
    checker.fail("gate/passed", "true or false", &report["gate"]["passed"]);
  }
  for (const auto& [stage, time] : report["run"]["stages"].items())
    checker.check(time, kStageKeys, "run/stages/" + stage + "/");
  json& few = report["calibration"]["few_tokens"];
  if (few.is_null()) few = json::array();
  if (!few.is_array()) checker.fail("calibration/few_tokens", "a list", &few);
  checker.check_each(few, kFewTokensKeys, "calibration/few_tokens");
  json& rounding = report["rounding_choice"];
  if (!rounding.is_null()) {
    checker.check(rounding, kRoundingKeys, "rounding_choice/");
    if (!rounding.contains("damping")) rounding["damping"] = json::object();
    if (!rounding["damping"].is_object()) checker.fail("rounding_choice/damping", "an object", &rounding["damping"]);
  }
  // Reports of earlier versions have none.
  json& parts = report["model"]["parts"];
  if (parts.is_null()) parts = json::array();
  if (!parts.is_array()) checker.fail("model/parts", "a list", &parts);
  checker.check_each(parts, kPartKeys, "model/parts");
  json& formats = report["model"]["formats"];
  if (formats.is_null()) formats = json::array();
  if (!formats.is_array()) checker.fail("model/formats", "a list", &formats);
  checker.check_each(formats, kFormatKeys, "model/formats");
  if (!report.contains("warnings")) report["warnings"] = json::array();
  if (!report["warnings"].is_array()) checker.fail("warnings", "a list", &report["warnings"]);
  for (const json& warning : report["warnings"]) {
    if (!warning.is_string()) checker.fail("warnings", "texts", &warning);
  }
  make_printable(report);
  return report;
}

}  // namespace metal_marlin

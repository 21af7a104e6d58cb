// report.json and its parts: any bytes give a record or an Error, and a record that was written is read again as it is.
// The first byte says which record.
#include <metal_marlin/error.h>
#include <metal_marlin/report_records.h>

#include <nlohmann/json.hpp>
#include <string>

#include "formats/json/json_bounds.h"
#include "fuzz_input.h"
#include "records/json_records.h"

namespace {

using namespace metal_marlin;

void no_fault(const std::string&, const std::string&, const std::string&) {
  fuzz::require(false, "what was written fits");
}

template <class Record>
void check(const nlohmann::json& value) {
  const auto fault = [](const std::string& place, const std::string& expected, const std::string& found) {
    throw FormatError(place + expected + found);
  };
  const nlohmann::json written = json_of(record_of<Record>(value, fault));
  const nlohmann::json again = json_of(record_of<Record>(written, no_fault));
  const auto text = [](const nlohmann::json& v) {
    return v.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  };
  fuzz::require(text(written) == text(again), "a record is read as it was written");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view text = fuzz::as_text(data + 1, size - 1);
  if (json_excess(text, {.depth = 32})) return 0;
  const nlohmann::json value = nlohmann::json::parse(text, nullptr, false);
  if (!value.is_object()) return 0;
  try {
    switch (data[0] % 5) {
      case 0:
        check<Report>(value);
        break;
      case 1:
        check<BlockRecord>(value);
        break;
      case 2:
        check<IdentityRecord>(value);
        break;
      case 3:
        check<TextRecord>(value);
        break;
      default:
        check<SensitivityReport>(value);
    }
  } catch (const Error&) {
  }
  return 0;
}

// The public to_json() of records.
#include <metal_marlin/plan_records.h>
#include <metal_marlin/report_records.h>

#include <nlohmann/json.hpp>

#include "core/border.h"
#include "report/json_records.h"

namespace metal_marlin {
namespace {

template <class Record>
std::string text_of(const Record& record) try {
  return json_of(record).dump(2, ' ', false, nlohmann::json::error_handler_t::replace);
} catch (...) {
  rethrow_as_error("to_json");
}

}  // namespace

std::string Report::to_json() const {
  return text_of(*this);
}

std::string Plan::to_json() const {
  return text_of(*this);
}

std::string SensitivityReport::to_json() const {
  return text_of(*this);
}

}  // namespace metal_marlin

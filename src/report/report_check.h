// Reads report.json, of this version or of an earlier one.
#pragma once

#include <metal_marlin/report_records.h>

#include <cstdint>
#include <string>

namespace metal_marlin {

inline constexpr int64_t kReportSchema = 1;

// FormatError naming `name`, the key, what was expected and what was found, unless the text is a whole report;
// UnsupportedError for another schema.
Report parse_report(const std::string& text, const std::string& name);

}  // namespace metal_marlin

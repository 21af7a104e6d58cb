// The fields of the records, as docs/report.md and the Python package need them. They come from the
// records' describe() alone.
#pragma once

#include <string>

namespace metal_marlin {

// A Markdown table of all fields of report.json: key, type, meaning. Keys of nested objects stand behind dots, those of
// the entries of lists behind "[]", those of maps behind ".*".
std::string report_table();
// The same of the plan that --dry-run --json prints.
std::string plan_table();
// A Python module of data classes, one for each record that Report, Plan, SensitivityReport and EvaluationRecord
// hold.
std::string python_records();

}  // namespace metal_marlin

// The fields of the records, as docs/report.md and the Python package need them. They come from the
// records' describe() alone.
#pragma once

#include <string>

namespace metal_marlin {

// A Markdown table of all fields of a record: key, type, meaning. Keys of nested objects stand behind dots, those of
// the entries of lists behind "[]", those of maps behind ".*". Instantiated for Report, Plan, Inspection, Comparison,
// ConvertResult, CheckResult and DiffResult.
template <class Record>
std::string field_table();
// A Python module of data classes, one for each record that is a result there, or in one.
std::string python_records();

}  // namespace metal_marlin

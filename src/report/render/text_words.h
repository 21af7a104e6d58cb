// What a report says in words of the text behind the statistics.
#pragma once

#include <metal_marlin/report_records.h>

#include <optional>
#include <string>

namespace metal_marlin {

// The sources for a model card: names without folders, with weights, numbers of sequences and how the text was made.
std::string calibration_text(const TextRecord& text, const std::optional<TextRecord>& made_from);
// The same of a report when it says more than source, sequences and tokens; else nothing.
std::string calibration_details(const CalibrationRecord& calibration);

}  // namespace metal_marlin

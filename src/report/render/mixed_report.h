// What the linears cost and which bits they got, for people.
#pragma once

#include <metal_marlin/report_records.h>

#include <cstddef>
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace metal_marlin {

// "layer 3 gate_up  1.8 M weights ...", the largest KL divergence first; at most `rows` (0: all). The first is of an
// inspection, the second of a report.
std::string sensitivity_text(const SensitivityRecord& sensitivity, size_t rows);
std::string mixed_text(const MixedRecord& mixed, size_t rows);
// For the page: what was measured in a sentence, and the items, the largest KL divergence first. Every item has its
// choice.
nlohmann::json mixed_words(const MixedRecord& mixed);
// As SVG: bars of the KL divergence by layer, coloured by the chosen bits.
std::string mixed_plot(const MixedRecord& mixed);

}  // namespace metal_marlin

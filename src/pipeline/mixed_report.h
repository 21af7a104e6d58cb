// What the linears cost and which bits they got, for people: of a report's "mixed" or an inspection's "sensitivity".
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace metal_marlin {

// "layer 3 gate_up  1.8 M weights ...", the largest KL divergence first; at most `rows` (0: all).
std::string mixed_text(const nlohmann::json& mixed, size_t rows);
// A title, a drawing (bars of the KL divergence by layer, coloured by the chosen bits) and a table.
std::string mixed_html(const nlohmann::json& mixed);
// FormatError naming `name` unless it is null or such a section.
void check_mixed_section(const nlohmann::json& mixed, const std::string& name);

}  // namespace metal_marlin

// The lists of a report in words, for its text and its page.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <utility>
#include <vector>

namespace metal_marlin {

// What happened to an entry of "clamped" (a linear's scales, or a tensor stored in 16 bits): "values beyond the largest
// float16, clamped: 2 (largest 1e+06)". An entry as parse_report() lets pass.
std::string clamped_text(const nlohmann::json& entry);

// Names that differ only in the number of their layer, as one with how many there are, in the order in which they are met:
// "model.layers.*.input_layernorm.weight", 30.
std::vector<std::pair<std::string, size_t>> names_by_kind(const nlohmann::json& names);

}  // namespace metal_marlin

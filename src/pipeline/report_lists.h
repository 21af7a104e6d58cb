// The lists of a report in words, for its text and its page.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <utility>
#include <vector>

namespace metal_marlin {

// An entry of "calibration" / "few_tokens": "model.layers.0.mlp.down_proj.weight: 512 tokens for 1536 channels".
std::string few_tokens_text(const nlohmann::json& entry);

// What happened to an entry of "clamped" (a linear's scales, or a tensor stored in 16 bits): "values beyond the largest
// float16, clamped: 2 (largest 1e+06)". An entry as parse_report() lets pass.
std::string clamped_text(const nlohmann::json& entry);

// "Rounding chosen on 8 sequences of the validation split: 200 refined, 9 with feedback only, 1 to nearest (10 with
// less than the recipe's steps); damping 0.07 for 30, 0.49 for 179". Of the report's "rounding_choice", an object that
// parse_report() let pass.
std::string rounding_choice_text(const nlohmann::json& choice);

// Names that differ only in the number of their layer, as one with how many there are, in the order in which they are
// met: "model.layers.*.input_layernorm.weight", 30.
std::vector<std::pair<std::string, size_t>> names_by_kind(const nlohmann::json& names);

}  // namespace metal_marlin

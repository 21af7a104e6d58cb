// The lists of a report in words, for its text and its page.
#pragma once

#include <metal_marlin/report_records.h>

#include <string>
#include <utility>
#include <vector>

namespace metal_marlin {

// An entry of "calibration" / "few_tokens": "model.layers.0.mlp.down_proj.weight: 512 tokens for 1536 channels".
std::string few_tokens_text(const FewTokensRecord& entry);

// Stages of at least 0.005 s, the longest first.
std::vector<std::pair<std::string, StageRecord>> stages_by_time(const RunRecord& run);

// What happened to an entry of "clamped" (a linear's scales, or a tensor stored in 16 bits): "values beyond the largest
// float16, clamped: 2 (largest 1e+06)".
std::string clamped_text(const ClampedRecord& entry);

// "Rounding chosen on 8 sequences of the validation split: 200 refined, 9 with feedback only, 1 to nearest (10 with
// less than the recipe's steps); damping 0.07 for 30, 0.49 for 179".
std::string rounding_choice_text(const RoundingRecord& choice);

// Names that differ only in the number of their layer, as one with how many there are, in the order in which they are
// met: "model.layers.*.input_layernorm.weight", 30.
std::vector<std::pair<std::string, size_t>> names_by_kind(const std::vector<std::string>& names);

}  // namespace metal_marlin

// Linears whose statistics are of too few tokens for the width of their input.
#pragma once

#include <metal_marlin/report_records.h>

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "recipe/recipe.h"
#include "recipe/tensor_plan.h"

namespace metal_marlin {

// A Gram matrix of T tokens has at most rank T, and it must describe in_features channels. With fewer tokens for each
// channel than this, most of the matrix is noise.
inline constexpr int64_t kLeastTokensPerChannel = 4;

using TokensOf = std::function<uint64_t(int64_t layer, LinearInput input)>;

struct FewTokens {
  std::vector<FewTokensRecord> list;  // of the quantized linears with too few tokens
  std::string warning;                // all of them in one sentence; empty: there are none
};

// `layers`: what is quantized in each. Nothing when the recipe reads no Gram matrix. `sequence_length`: to say how many
// sequences would do, by --select where they are `selected`; 0: the statistics come from a file.
FewTokens find_few_tokens(std::span<const LayerTensors> layers, const Recipe& recipe, const TokensOf& tokens_of,
                          int64_t sequence_length, bool selected);

}  // namespace metal_marlin

// QuantizeOptions, checked and turned into choices: which scales, which ranges, which rounding.
#pragma once

#include <metal_marlin/quantize.h>

#include <map>
#include <optional>
#include <string>

#include "core/values.h"
#include "model/block.h"
#include "quantize/rounding/rounding.h"
#include "write/outer_types.h"

namespace metal_marlin {

enum class ScaleMethod : uint8_t { kNone, kAwq, kSalient };

// Grids by weight name. bits kUnquantizedBits: the linear stays as it is.
using LinearGrids = std::map<std::string, Grid>;
inline constexpr int kUnquantizedBits = 16;

struct Recipe {
  Method method = Method::kAwq;
  ScaleMethod scales = ScaleMethod::kNone;
  Statistic statistic = Statistic::kMean;
  ScaleLoss scale_loss = ScaleLoss::kLinear;
  double salient_ratio = 0.01;
  RangeChoice ranges = RangeChoice::kAbsmax;
  bool signed_scales = false;
  bool clip = false;
  RoundingOptions rounding;       // its damping: without a guard, and when sensitivity is measured
  double least_damping = 0.01;    // the smallest that the guard tries
  double first_token_weight = 1;  // in the Gram matrices
  bool guard = false;             // rounding chosen per linear (rounding_choice.h)
  // Of the forward pass that makes statistics; never of an evaluation.
  MatmulPrecision precision = MatmulPrecision::kF32;
  Grid grid;                 // of most linears (see QuantizedWeight::grid); group_size resolved: explicit, or -1
  LinearGrids grids;         // of linears that --linear-bits gives another
  LinearGrids chosen_grids;  // of linears whose bits were chosen by their share of the KL divergence
  OuterTypes outer;          // of embedding and head, as asked for
  int least_zero = 0;        // that every format can hold: 1 with version 1 of GPTQ
};

// The stages that the options choose, whatever the model: all but formats, group size and the grids of single linears.
// Throws ArgumentError naming the option, what was given and what is possible.
Recipe stages_of(const QuantizeOptions& options);
// How many of `sequences` are the validation split, by which the guard judges: the last eighth, at least one. 0 without
// a guard, or when there are fewer than two sequences.
int64_t guard_sequences(const Recipe& recipe, int64_t sequences);

// The arithmetic of the stream that makes statistics. Empty: bf16 where the processor multiplies it faster (measured on
// SmolLM2: the reference's perplexity over 32 chunks is 24.191 in f32 and 24.190 in bf16).
MatmulPrecision statistics_precision(std::optional<MatmulPrecision> asked);

// Whether ranges are chosen by Gram matrices.
bool ranges_by_gram(const Recipe& recipe);
// Whether the recipe reads Gram matrices (the report's output errors aside).
bool needs_gram(const Recipe& recipe);
}  // namespace metal_marlin

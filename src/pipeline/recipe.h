// QuantizeOptions, checked and turned into choices: which scales, which ranges, which rounding.
#pragma once

#include <metal_marlin/quantize.h>
#include <metal_marlin/report_records.h>

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/values.h"
#include "model/block.h"
#include "source/model_source.h"

namespace metal_marlin {

enum class ScaleMethod : uint8_t { kNone, kAwq, kSalient };
enum class Rounding : uint8_t { kNearest, kGptq };

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
  Rounding rounding = Rounding::kNearest;
  double damping = 0.01;        // without a guard, and when sensitivity is measured
  double least_damping = 0.01;  // the smallest that the guard tries
  bool act_order = true;
  double first_token_weight = 1;              // in the Gram matrices
  bool refine = false;                        // codes and scales after rounding
  bool guard = false;                         // rounding chosen per linear (rounding_choice.h)
  ComputeType precision = ComputeType::kF32;  // of the forward pass that makes statistics; never of an evaluation
  Grid grid;                 // of most linears (see QuantizedWeight::grid); group_size resolved: explicit, or -1
  LinearGrids grids;         // of linears that --linear-bits gives another
  LinearGrids chosen_grids;  // of linears whose bits were chosen by their share of the KL divergence
  int least_zero = 0;        // that every format can hold: 1 with version 1 of GPTQ
};

// The stages that the options choose, whatever the model: all but formats, group size and the grids of single linears.
// Throws ArgumentError naming the option, what was given and what is possible.
Recipe stages_of(const QuantizeOptions& options);
// The same, for a model.
Recipe make_recipe(const QuantizeOptions& options, const ModelSource& source);

// How many of `sequences` are the validation split, by which the guard judges: the last eighth, at least one. 0 without
// a guard, or when there are fewer than two sequences.
int64_t guard_sequences(const Recipe& recipe, int64_t sequences);

// The arithmetic of the stream that makes statistics. Empty: bf16 where the processor multiplies it faster (measured on
// SmolLM2: the reference's perplexity over 32 chunks is 24.191 in f32 and 24.190 in bf16).
ComputeType statistics_precision(std::optional<MatmulPrecision> asked);

// Whether ranges are chosen by Gram matrices.
bool ranges_by_gram(const Recipe& recipe);
// Whether the recipe reads Gram matrices (the report's output errors aside).
bool needs_gram(const Recipe& recipe);
// ArgumentError when `output` is no folder, or the one that the model itself is read from.
void check_output(const ModelSource& source, const std::string& output);

// Shell patterns (*, ?, [...]) against a weight's name, as --skip takes them.
bool matches_any(const std::vector<std::string>& patterns, const std::string& name);

// One stored weight tensor of a layer that is to be quantized: with fused weights several linears are rows of it.
struct QuantizedWeight {
  std::string name;               // "model.layers.0.self_attn.q_proj.weight"
  std::vector<LinearSlot> slots;  // in row order
  int64_t rows = 0;
  int64_t columns = 0;
  Grid grid;  // linears may differ; those that engines fuse at load have one
};
struct Skipped {
  std::string name;
  std::string reason;
};
struct LayerTensors {
  std::vector<QuantizedWeight> quantized;
  std::vector<Skipped> skipped;
};
// What is quantized in a layer and what stays in 16 bits: by --skip. Modules that engines fuse at load (q,k,v; gate,up)
// are skipped together when one of them is.
LayerTensors layer_tensors(const ModelSource& source, int64_t layer, const QuantizeOptions& options);
// The same with the grid of each linear; what one of the formats cannot hold is left out too.
LayerTensors planned_tensors(const ModelSource& source, int64_t layer, const QuantizeOptions& options,
                             const Recipe& recipe);

// The options as the report lists them.
OptionValues option_values(const QuantizeOptions& options, const Recipe& recipe);

}  // namespace metal_marlin

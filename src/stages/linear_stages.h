// The stages of a recipe for the linears of one input, as functions of values: quantize_block() applies them to a
// block's linears, quantize_matrix() to a lone weight.
#pragma once

#include <metal_marlin/report_records.h>

#include <span>

#include "core/tensor.h"
#include "core/values.h"
#include "quantize/group_range.h"
#include "quantize/rounding/rounding.h"
#include "recipe/recipe.h"
#include "scale/search.h"
#include "stages/rounding_choice.h"

namespace metal_marlin {

// Options of search_input_scale() for linears of this grid. The caller may add heads, and with ScaleLoss::kBlock a
// loss.
ScaleSearchOptions scale_search_options(const Recipe& recipe, const Grid& grid);
// The scale of the channels of an input, by the recipe's search and loss. Throws as search_scale does.
InputScale search_input_scale(const Recipe& recipe, LinearInput input, std::span<const Matrix* const> weights,
                              const ActivationStats& stats, ScaleSearchOptions& options);
// Turns the statistics of x into those of x / scale.
void fold_statistics(ActivationStats& stats, std::span<const float> scale);

// Ranges of the recipe for rows of a linear. may_clip: whether a clip search of the recipe applies to this linear. Sets
// clipped_groups and lifted_zeros of the record.
GroupRanges choose_ranges(const Recipe& recipe, const Matrix& weight, const Matrix& gram, const Grid& grid,
                          bool may_clip, LinearRecord& record);

// The trial of a guard, without grids and ranges.
RoundingTrial rounding_trial(const Recipe& recipe);
// "nearest", "feedback" or "refined".
const char* rounding_name(const RoundingOptions& rounding);
// Rounds a linear (round_weight()). Sets what the record says of damping,
// ranges and refinement.
QuantizedTensor round_linear_as(const RoundingOptions& rounding, const Matrix& weight, const Matrix& gram,
                                const GroupRanges& ranges, const Grid& grid, const GptqFactor* factor,
                                LinearRecord& record);

}  // namespace metal_marlin

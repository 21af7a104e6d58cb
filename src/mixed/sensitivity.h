// What the quantization of each linear costs, measured: the KL divergence of the model in which it alone is quantized.
//
// The model is run on a few short sequences as many streams in lockstep, block by block: one through the original
// blocks, one through the quantized ones, and one for each set of linears with a common input, in which only they are
// quantized (by the recipe itself, calibrated on a part of the calibration text). At the end each stream's logits are
// compared with the original's. So every figure is that of a real run with single quantized linears, at once and
// without keeping models. Other grids than the recipe's are estimated from it to second order: KL grows with the square
// of the output error.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/progress.h"
#include "mixed/mixed_bits.h"
#include "recipe/recipe.h"
#include "recipe/tensor_plan.h"
#include "tokenizer/token_set.h"

namespace metal_marlin {

inline constexpr int64_t kSensitivitySequence = 256;     // tokens of a sequence at most
inline constexpr int64_t kSensitivityStatistics = 8192;  // tokens at most that the linears are calibrated on

// calibration: sequences; the last ones are measured on, the first ones calibrated on (the same where there are too
// few). layers: by planned_tensors. scratch: path of a file for states when memory is short.
Sensitivity measure_sensitivity(const ModelSource& source, const QuantizeOptions& options, const Recipe& recipe,
                                const std::vector<LayerTensors>& layers, const TokenSet& calibration,
                                const std::string& scratch, Tracker& tracker);

// A warning when `available` sequences are too few, so that some are used both to calibrate and to measure. Empty when
// they suffice.
std::string sensitivity_warning(const QuantizeOptions& options, int64_t available);

// Peak resident memory of that, less the program.
uint64_t sensitivity_bytes(const ModelSource& source, const QuantizeOptions& options, uint64_t block_bytes);

}  // namespace metal_marlin

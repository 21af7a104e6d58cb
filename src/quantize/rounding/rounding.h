// Rounding, the last stage of a weight: error feedback or plain rounding, then refinement.
#pragma once

#include "core/tensor.h"
#include "core/values.h"
#include "quantize/ranges.h"
#include "quantize/rounding/gptq.h"
#include "quantize/rounding/refine.h"

namespace metal_marlin {

struct RoundingOptions {
  bool feedback = false;  // GPTQ's; without it every weight is rounded to nearest
  GptqOptions gptq;       // its damping is the refinement's too
  bool refine = false;    // codes and scales, after either
  RefineOptions refinement;
};

// Codes without refinement. factor: of the weight's input, made with options.gptq; null, and not read, without
// feedback. Errors as quantize_gptq() and quantize_rtn().
QuantizedTensor round_codes(const RoundingOptions& options, const Matrix& weight, const GroupRanges& ranges,
                            const Grid& grid, const GptqFactor* factor);
// Refines such codes where the options say so. Errors as refine().
RefineCounts refine_codes(const RoundingOptions& options, const Matrix& weight, const Matrix& gram,
                          QuantizedTensor& codes);
// Both. counts, unless null, gets what the refinement changed.
QuantizedTensor round_weight(const RoundingOptions& options, const Matrix& weight, const Matrix& gram,
                             const GroupRanges& ranges, const Grid& grid, const GptqFactor* factor,
                             RefineCounts* counts = nullptr);

}  // namespace metal_marlin

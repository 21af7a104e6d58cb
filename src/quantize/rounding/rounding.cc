#include "quantize/rounding/rounding.h"

#include <metal_marlin/error.h>

#include "quantize/rounding/rtn.h"

namespace metal_marlin {

QuantizedTensor round_codes(const RoundingOptions& options, const Matrix& weight, const GroupRanges& ranges,
                            const Grid& grid, const GptqFactor* factor) {
  if (!options.feedback) return quantize_rtn(weight, ranges, grid);
  if (factor == nullptr) throw ArgumentError("rounding with error feedback: expected the factor of the Gram matrix");
  return quantize_gptq(weight, *factor, ranges, grid);
}

RefineCounts refine_codes(const RoundingOptions& options, const Matrix& weight, const Matrix& gram,
                          QuantizedTensor& codes) {
  if (!options.refine) return {};
  RefineOptions refinement = options.refinement;
  refinement.damping = options.gptq.damping;
  return refine(weight, gram, codes, refinement);
}

QuantizedTensor round_weight(const RoundingOptions& options, const Matrix& weight, const Matrix& gram,
                             const GroupRanges& ranges, const Grid& grid, const GptqFactor* factor,
                             RefineCounts* counts) {
  QuantizedTensor codes = round_codes(options, weight, ranges, grid, factor);
  const RefineCounts changed = refine_codes(options, weight, gram, codes);
  if (counts != nullptr) *counts = changed;
  return codes;
}

}  // namespace metal_marlin

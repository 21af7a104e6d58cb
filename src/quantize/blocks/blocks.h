// A weight as blocks of a ggml type, each free number chosen on the calibration loss tr(E G E^T).
#pragma once

#include "core/tensor.h"
#include "formats/blocks/block_tensor.h"
#include "quantize/errors.h"
#include "quantize/rounding/gptq_factor.h"

namespace metal_marlin {

struct BlockRounding {
  bool feedback = true;  // GPTQ's; without it each weight is rounded to nearest, for scales chosen by the diagonal of G
  GptqOptions gptq;      // of the factor; its damping is that of scales and refinement too
  int passes = 4;        // of the refinement (refine_blocks.h); 0: none
};

// weight [out, in], gram [in, in] with both halves filled. factor: of gram, made with options.gptq, which several
// weights of an input share; null: it is made here. Scales and minima first (choose_scales.h), then codes by error
// feedback for these as they are stored, then the refinement. Any sign of d and dmin; subnormal f16 where weights are
// small; numbers that f16 cannot hold become the largest that it can. The bytes do not depend on the number of threads.
// Memory: four bytes for each weight of 64 rows per thread, the factor, and one byte per weight. ArgumentError: a type
// without BlockForm, shapes, in_features no multiple of the block; NumericError: NaN or Inf in the weight, a gram that
// is none.
BlockTensor quantize_to_blocks(const Matrix& weight, const Matrix& gram, GgmlType type,
                               const BlockRounding& options = {}, const GptqFactor* factor = nullptr);

}  // namespace metal_marlin

// Refines finished codes and scales against the calibration loss tr(E H E^T), E = W - Wq. It alternates coordinate
// descent over the codes with a closed-form refit of the scales. Neither step ever raises the loss, so refinement may
// follow any rounding.
#pragma once

#include <cstdint>

#include "core/tensor.h"
#include "core/values.h"

namespace metal_marlin {

struct RefineOptions {
  int passes = 2;               // over all codes; 0: none
  bool refit = true;            // of the scales, between the passes, or after a single pass
  double damping = 0.01;        // H = gram with H_kk <- H_kk (1 + damping) + 1e-7 mean(diag), as GPTQ's
  double refit_damping = 1e-4;  // share of the mean diagonal of the normal equations; holds scales near the old ones
};

struct RefineCounts {
  int64_t changed_codes = 0;  // counted once per pass
  int64_t refitted_scales = 0;
};

// Code pass, for k = 0, 1, ...: c' = clamp(rint(c + R_k / (H_kk S)), 0, levels - 1), R = E H; then R_l -= (c' - c) S
// H_kl. That is the best code of column k while all others stay. Scale refit: with V = code - zero, A_gh = sum of V_k
// H_kl V_l over k in g, l in h, v_g = sum of R_k V_k over k in g: (A + rho I) (S' - S) = v, rho = refit_damping
// mean(diag A). A group keeps its scale unless 0.4 < S' / S < 2. A row keeps all its scales unless its loss falls with
// the S' as stored. gram [in, in], both halves filled. Zeros and minima stay as they are. Scales may be negative. Costs
// about 3 out in^2 / 2 multiply-adds per pass and as many for the refit. ArgumentError when shapes disagree or weight
// is not finite.
RefineCounts refine(const Matrix& weight, const Matrix& gram, QuantizedTensor& quantized,
                    const RefineOptions& options = {});

// Peak resident bytes of refine() beyond its arguments, for threads() threads as set now.
uint64_t refine_memory_bytes(int64_t in_features, int64_t group_size);

}  // namespace metal_marlin

// The Gram matrix of an input with its damping, as the refinements read it.
#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor.h"
#include "quantize/rounding/gptq_factor.h"

namespace metal_marlin {

// H = gram + diag(extra): H_kk = gram_kk (1 + damping) + 1e-7 mean(diag).
struct DampedGram {
  const Matrix& gram;
  std::vector<float> extra;

  DampedGram(const Matrix& g, double damping) : gram(g), extra(static_cast<size_t>(g.rows())) {
    double mean = 0;
    for (int64_t k = 0; k < g.rows(); ++k) mean += g(k, k);
    mean /= static_cast<double>(g.rows());
    // For channels that are always zero, and for a Gram matrix of zeros, the plain squared error decides.
    const double floor = mean > 0 ? kDeadDamping * mean : 1.0;
    for (int64_t k = 0; k < g.rows(); ++k)
      extra[static_cast<size_t>(k)] = static_cast<float>(g(k, k) * damping + floor);
  }
  float diagonal(int64_t k) const noexcept { return gram(k, k) + extra[static_cast<size_t>(k)]; }
};

}  // namespace metal_marlin

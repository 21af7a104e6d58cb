// A block as the forward pass uses it. Only model/ and code that keeps blocks for many runs include this.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "kernels/gemm.h"
#include "model/block.h"

namespace metal_marlin {

struct PreparedLinear {
  PackedWeight weight;
  std::vector<float> bias;  // empty: none

  const float* bias_or_null() const noexcept { return bias.empty() ? nullptr : bias.data(); }
};

class PreparedBlock {
 public:
  // With `in_place` float32 weights are used where they are instead of being packed. They must then outlive this
  // object.
  PreparedBlock(const Block& block, ComputeType precision, bool in_place);

  const PreparedLinear& linear(LinearKind kind) const noexcept { return linears_[static_cast<size_t>(kind)]; }
  const std::vector<float>& norm(NormKind kind) const noexcept { return norms_[static_cast<size_t>(kind)]; }
  uint64_t bytes() const noexcept;

 private:
  std::array<PreparedLinear, kLinears> linears_;
  std::array<std::vector<float>, kNorms> norms_;
};

}  // namespace metal_marlin

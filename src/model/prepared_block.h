// A block as the forward pass uses it. Only model/ and code that keeps blocks for many runs include this.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/weight_matrix.h"
#include "model/block.h"

namespace metal_marlin {

struct PreparedLinear {
  WeightMatrix weight;
  std::vector<float> bias;  // empty: none

  const float* bias_or_null() const noexcept { return bias.empty() ? nullptr : bias.data(); }
};

class PreparedBlock {
 public:
  // With `in_place` float32 weights are used where they are instead of being packed. They must then outlive this
  // object.
  PreparedBlock(const Block& block, MatmulPrecision precision, bool in_place);
  // Of parts that are prepared already.
  using Linears = std::array<PreparedLinear, kLinears>;
  using Norms = std::array<std::vector<float>, kNorms>;
  PreparedBlock(Linears linears, Norms norms);

  const PreparedLinear& linear(LinearKind kind) const noexcept { return linears_[static_cast<size_t>(kind)]; }
  const std::vector<float>& norm(NormKind kind) const noexcept { return norms_[static_cast<size_t>(kind)]; }
  // Whether every linear is one of codes: its results do not depend on how rows and outputs are shared.
  bool all_codes() const noexcept;
  uint64_t bytes() const noexcept;

 private:
  Linears linears_;
  Norms norms_;
};

// The layer's block from the checkpoint, prepared. `codes`: linears that are stored as codes stay so and are multiplied
// with activations in 8 bits; all others are floats of `precision`. Errors as load_block.
std::shared_ptr<const PreparedBlock> load_prepared_block(const ModelSource& source, int64_t layer,
                                                         MatmulPrecision precision, bool codes);
// What its matrices take in memory: of codes at most that, of floats without the padding of their panels.
uint64_t prepared_bytes(const ModelSource& source, int64_t layer, MatmulPrecision precision, bool codes);

}  // namespace metal_marlin

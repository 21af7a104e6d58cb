#include "model/prepared_block.h"

#include "source/family.h"

namespace metal_marlin {

Block Block::clone() const {
  Block copy;
  for (size_t i = 0; i < linears.size(); ++i) {
    copy.linears[i].weight = linears[i].weight.clone();
    copy.linears[i].bias = linears[i].bias;
  }
  copy.norms = norms;
  return copy;
}

PreparedBlock::PreparedBlock(const Block& block, ComputeType precision, bool in_place) : norms_(block.norms) {
  const GemmType type = precision == ComputeType::kBF16 ? GemmType::kBF16 : GemmType::kF32;
  for (size_t i = 0; i < linears_.size(); ++i) {
    const Matrix& w = block.linears[i].weight;
    linears_[i].weight = in_place && type == GemmType::kF32 ? PackedWeight::view(w.data(), w.rows(), w.cols())
                                                            : PackedWeight(w.data(), w.rows(), w.cols(), type);
    linears_[i].bias = block.linears[i].bias;
  }
}

uint64_t PreparedBlock::bytes() const noexcept {
  uint64_t n = 0;
  for (const auto& l : linears_) n += l.weight.bytes() + l.bias.size() * sizeof(float);
  for (const auto& norm : norms_) n += norm.size() * sizeof(float);
  return n;
}

}  // namespace metal_marlin

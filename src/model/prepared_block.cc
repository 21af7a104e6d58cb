#include "model/prepared_block.h"

#include <algorithm>
#include <utility>

#include "checkpoint/model_source.h"
#include "families/family.h"
#include "kernels/gemm.h"

namespace metal_marlin {

uint64_t prepared_bytes(const ModelSource& source, int64_t layer, MatmulPrecision precision, bool codes) {
  const uint64_t element = precision == MatmulPrecision::kBF16 && has_bf16_gemm() ? 2 : 4;
  uint64_t bytes = 0;
  for (const LinearSlot& slot : source.linears(layer)) {
    const auto form = codes ? source.code_form(slot.weight) : std::nullopt;
    bytes +=
        form ? code_bytes(*form, slot.rows, slot.columns) : static_cast<uint64_t>(slot.rows * slot.columns) * element;
  }
  return bytes;
}

Block Block::clone() const {
  Block copy;
  for (size_t i = 0; i < linears.size(); ++i) {
    copy.linears[i].weight = linears[i].weight.clone();
    copy.linears[i].bias = linears[i].bias;
  }
  copy.norms = norms;
  return copy;
}

PreparedBlock::PreparedBlock(const Block& block, MatmulPrecision precision, bool in_place) : norms_(block.norms) {
  for (size_t i = 0; i < linears_.size(); ++i) {
    const Matrix& w = block.linears[i].weight;
    linears_[i].weight = in_place && precision == MatmulPrecision::kF32
                             ? WeightMatrix::view(w.data(), w.rows(), w.cols())
                             : WeightMatrix(w.data(), w.rows(), w.cols(), precision);
    linears_[i].bias = block.linears[i].bias;
  }
}

PreparedBlock::PreparedBlock(Linears linears, Norms norms) : linears_(std::move(linears)), norms_(std::move(norms)) {
  // Linears with one input round it once.
  const auto share = [&](LinearKind kind, LinearKind with) {
    linears_[static_cast<size_t>(kind)].weight.share_plan(linears_[static_cast<size_t>(with)].weight);
  };
  share(LinearKind::kK, LinearKind::kQ);
  share(LinearKind::kV, LinearKind::kQ);
  share(LinearKind::kUp, LinearKind::kGate);
}

bool PreparedBlock::all_codes() const noexcept {
  return std::all_of(linears_.begin(), linears_.end(),
                     [](const PreparedLinear& l) { return l.weight.type() == WeightType::kCodes; });
}

uint64_t PreparedBlock::bytes() const noexcept {
  uint64_t n = 0;
  for (const auto& l : linears_) n += l.weight.bytes() + l.bias.size() * sizeof(float);
  for (const auto& norm : norms_) n += norm.size() * sizeof(float);
  return n;
}

}  // namespace metal_marlin

#include "stages/finished_block.h"

#include <span>

#include "core/half.h"
#include "families/tensor_names.h"

namespace metal_marlin {

void apply_finished(const ModelSource& source, int64_t layer, const FinishedBlock& finished, Block& block) {
  const auto slots = source.linears(layer);
  for (const LinearSlot& slot : slots) {
    Matrix& weight = block.linear(slot.kind).weight;
    if (const auto it = finished.quantized.find(slot.weight); it != finished.quantized.end())
      dequantize_rows(it->second, slot.first_row, slot.rows, weight.data());
    if (const auto it = finished.blocks.find(slot.weight); it != finished.blocks.end())
      dequantize_rows(it->second, slot.first_row, slot.rows, weight.data());
  }
  for (const OwnedTensor& t : finished.changed) {
    const auto* bits = reinterpret_cast<const uint16_t*>(t.bytes.data());
    const auto fill = [&](std::span<float> values, int64_t first) {
      for (size_t i = 0; i < values.size(); ++i) values[i] = f16_to_f32(bits[static_cast<size_t>(first) + i]);
    };
    for (int k = 0; k < kNorms; ++k) {
      const auto kind = static_cast<NormKind>(k);
      if (!block.norm(kind).empty() && source.norm_name(layer, kind) == t.name) fill(block.norm(kind), 0);
    }
    for (const LinearSlot& slot : slots) {
      Matrix& weight = block.linear(slot.kind).weight;
      if (slot.weight == t.name)
        fill({weight.data(), static_cast<size_t>(weight.size())}, slot.first_row * slot.columns);
      if (slot.has_bias && bias_name(slot.weight) == t.name) fill(block.linear(slot.kind).bias, slot.first_row);
    }
  }
}

}  // namespace metal_marlin

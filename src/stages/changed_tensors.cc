#include "stages/changed_tensors.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <utility>

#include "core/half.h"
#include "families/tensor_names.h"

namespace metal_marlin {
namespace {

// Values that become a tensor of F16, rounded where they stand.
OwnedTensor as_f16(const std::string& name, std::span<float> values, std::vector<int64_t> shape) {
  OwnedTensor t;
  t.name = name;
  t.dtype = DType::kF16;
  t.shape = std::move(shape);
  t.bytes = Buffer(values.size() * 2);
  auto* bits = reinterpret_cast<uint16_t*>(t.bytes.data());
  for (size_t i = 0; i < values.size(); ++i) {
    if (!f16_fits(values[i]))
      throw NumericError(fmt::format("{}: {} after folding exceeds the range of f16", name, values[i]));
    bits[i] = f32_to_f16(values[i]);
    values[i] = f16_to_f32(bits[i]);
  }
  return t;
}

// How many values are not 0 in the source and 0 in the written tensor. A norm that is stored less 1 may be 0 by right.
int64_t count_lost(const ModelSource& source, const std::string& name, std::span<const float> written) {
  if (source.family().offset_norm && name.find("norm") != std::string::npos) return 0;
  const Matrix before = source.load(name);
  if (before.values().size() != written.size()) return 0;
  int64_t lost = 0;
  for (size_t i = 0; i < written.size(); ++i) lost += written[i] == 0 && before.values()[i] != 0 ? 1 : 0;
  return lost;
}

void add(const ModelSource& source, const std::string& name, std::span<float> values, std::vector<int64_t> shape,
         ChangedTensors& out) {
  out.tensors.push_back(as_f16(name, values, std::move(shape)));
  if (const int64_t lost = count_lost(source, name, values); lost > 0)
    out.flushed.push_back({name, lost, std::ssize(values)});
}

// The parts of one stored tensor, together. Empty shape: as many values as there are.
void add_joined(const ModelSource& source, const std::string& name, std::span<const std::span<float>> parts,
                std::vector<int64_t> shape, ChangedTensors& out) {
  std::vector<float> joined;
  for (const std::span<float> part : parts) joined.insert(joined.end(), part.begin(), part.end());
  if (shape.empty()) shape = {std::ssize(joined)};
  add(source, name, joined, std::move(shape), out);
  auto at = joined.begin();
  for (const std::span<float> part : parts) {
    std::copy_n(at, part.size(), part.begin());
    at += std::ssize(part);
  }
}

void add_norm(const ModelSource& source, int64_t layer, NormKind kind, Block& block, ChangedTensors& out) {
  std::vector<float>& norm = block.norm(kind);
  add(source, source.norm_name(layer, kind), norm, {std::ssize(norm)}, out);
}

// v or up: its bias and, where it stays in 16 bits, its weight, with those that share a tensor where the family fuses
// them.
void add_producer(const ModelSource& source, int64_t layer, LinearKind kind, bool quantized, Block& block,
                  ChangedTensors& out) {
  const std::vector<LinearSlot> all = source.linears(layer);
  const auto own = std::find_if(all.begin(), all.end(), [&](const LinearSlot& s) { return s.kind == kind; });
  std::vector<std::span<float>> weights;
  std::vector<std::span<float>> biases;
  int64_t rows = 0;
  for (const LinearSlot& slot : all) {
    if (slot.weight != own->weight) continue;
    Linear& linear = block.linear(slot.kind);
    weights.push_back(linear.weight.values());
    biases.emplace_back(linear.bias);
    rows += slot.rows;
  }
  if (!quantized) add_joined(source, own->weight, weights, {rows, own->columns}, out);
  if (own->has_bias) add_joined(source, bias_name(own->weight), biases, {}, out);
}

}  // namespace

std::vector<std::string> ChangedTensors::names() const {
  std::vector<std::string> out;
  for (const OwnedTensor& t : tensors) out.push_back(t.name);
  return out;
}

ChangedTensors changed_tensors(const ModelSource& source, int64_t layer, std::span<const Fold> folds,
                               const std::set<LinearKind>& quantized, Block& block) {
  ChangedTensors out;
  for (const Fold& fold : folds) {
    switch (fold.producer) {
      case FoldProducer::kInputNorm:
        add_norm(source, layer, NormKind::kInput, block, out);
        break;
      case FoldProducer::kPreFeedForwardNorm:
        add_norm(source, layer, NormKind::kPreFeedForward, block, out);
        break;
      case FoldProducer::kVRows:
        add_producer(source, layer, LinearKind::kV, quantized.count(LinearKind::kV) > 0, block, out);
        break;
      case FoldProducer::kUpRows:
        add_producer(source, layer, LinearKind::kUp, quantized.count(LinearKind::kUp) > 0, block, out);
        break;
      case FoldProducer::kNone:
        break;
    }
  }
  return out;
}

}  // namespace metal_marlin

#include "checkpoint/gguf/gguf_parts.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <numbers>
#include <utility>

#include "checkpoint/convert.h"
#include "checkpoint/gguf/gguf_names.h"
#include "formats/gguf/gguf_set.h"

namespace metal_marlin {
namespace {

GgufPart factors(const char* name, std::vector<float> values) {
  GgufPart part;
  part.gguf = name;
  part.shape = {static_cast<int64_t>(values.size())};
  part.in_f32 = true;
  part.values = std::move(values);
  return part;
}

// The divisors of llama3 scaling, one for each pair of turning dimensions (transformers:
// _compute_llama3_parameters).
std::vector<float> llama3_factors(const RopeConfig& rope, int64_t turning) {
  const auto original = static_cast<double>(rope.original_max_position_embeddings);
  std::vector<float> out;
  for (int64_t i = 0; i < turning; i += 2) {
    const double wavelength =
        2 * std::numbers::pi * std::pow(rope.theta, static_cast<double>(i) / static_cast<double>(turning));
    double factor = 1;
    if (wavelength > original / rope.low_freq_factor) {
      factor = rope.factor;
    } else if (wavelength >= original / rope.high_freq_factor) {
      const double smooth =
          (original / wavelength - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
      factor = 1 / ((1 - smooth) / rope.factor + smooth);
    }
    out.push_back(static_cast<float>(factor));
  }
  return out;
}

// A file's own factors go along as they are.
std::vector<GgufPart> stored_factors(const GgufSet& set) {
  std::vector<GgufPart> out;
  for (const char* name : {"rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"}) {
    const GgufTensor* tensor = set.find(name);
    if (tensor == nullptr) continue;
    out.push_back(factors(name, set.file_of(*tensor).mapped().checked([&] {
      std::vector<float> values(static_cast<size_t>(tensor->elements()));
      dequantize_rows(*tensor, 0, 1, values.data());
      return values;
    })));
  }
  return out;
}

std::vector<GgufPart> rope_factors(const ModelSource& source) {
  if (source.gguf() != nullptr) return stored_factors(*source.gguf());
  const RopeConfig& rope = source.config().rope;
  if (rope.type == RopeType::kLlama3)
    return {factors("rope_freqs.weight", llama3_factors(rope, gguf_turning_dimensions(source.config())))};
  if (rope.type != RopeType::kLongrope) return {};
  const auto floats = [](const std::vector<double>& values) {
    return std::vector<float>(values.begin(), values.end());
  };
  return {factors("rope_factors_long.weight", floats(rope.long_factor)),
          factors("rope_factors_short.weight", floats(rope.short_factor))};
}

}  // namespace

int64_t gguf_turning_dimensions(const ModelConfig& config) {
  return static_cast<int64_t>(static_cast<double>(config.head_dim) * config.rope.partial_rotary_factor);
}

std::vector<GgufPart> gguf_parts(const ModelSource& source) {
  std::map<std::string, std::vector<int64_t>> shapes;
  for (CheckpointTensor& t : source.tensors()) shapes.emplace(std::move(t.name), std::move(t.shape));
  std::vector<GgufPart> out = rope_factors(source);
  for (const GgufName& n : gguf_names(source.family(), source.config())) {
    const auto it = shapes.find(n.name);
    if (it == shapes.end()) continue;
    GgufPart part;
    part.gguf = n.gguf;
    part.name = n.name;
    part.shape = it->second;
    part.in_f32 = part.shape.size() < 2;
    part.heads = n.heads;
    part.plus_one = n.plus_one;
    out.push_back(std::move(part));
  }
  return out;
}

Matrix gguf_values(const ModelSource& source, const GgufPart& part, int64_t first_row, int64_t rows) {
  const auto [all, columns] = matrix_shape(part.shape, part.gguf, source.path());
  check_rows(part.gguf, first_row, rows, all);
  if (part.name.empty()) {
    Matrix m(1, columns);
    std::copy(part.values.begin(), part.values.end(), m.data());
    return m;
  }
  Matrix m =
      part.heads == 0 || part.shape.size() == 1 ? source.load(part.name, first_row, rows) : Matrix(rows, columns);
  if (part.heads > 0 && part.shape.size() == 1) {
    const std::vector<float> stored(m.values().begin(), m.values().end());
    for (int64_t c = 0; c < columns; ++c) m(0, gguf_row(c, columns, part.heads)) = stored[static_cast<size_t>(c)];
  } else if (part.heads > 0) {
    // Whole heads hold the same rows in both orders.
    const int64_t head = all / part.heads;
    const int64_t begin = first_row / head * head;
    const int64_t end = (first_row + rows + head - 1) / head * head;
    const Matrix heads = source.load(part.name, begin, end - begin);
    for (int64_t r = begin; r < end; ++r) {
      const int64_t to = gguf_row(r, all, part.heads) - first_row;
      if (to < 0 || to >= rows) continue;
      std::memcpy(m.data() + to * columns, heads.data() + (r - begin) * columns, static_cast<size_t>(columns) * 4);
    }
  }
  if (part.plus_one) {
    for (float& v : m.values()) v += 1.0F;
  }
  return m;
}

}  // namespace metal_marlin

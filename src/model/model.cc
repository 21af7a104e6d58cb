#include "model/model.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <optional>
#include <unordered_map>

#include "checkpoint/model_source.h"
#include "core/half.h"
#include "core/interrupt.h"
#include "core/threads.h"
#include "families/tensor_names.h"
#include "kernels/dispatch.h"
#include "kernels/gemm.h"
#include "kernels/weight_matrix.h"
#include "model/prepared_block.h"

namespace metal_marlin {
namespace {

// `first`: the index in the whole tensor of the first of these values. `columns`: of a matrix; 0: a vector.
void check_finite(std::span<const float> values, const std::string& name, const ModelSource& source, int64_t first,
                  int64_t columns = 0) {
  // Without branches, and in integers, so that the compiler takes many values at once.
  constexpr uint32_t kExponent = 0x7f800000;  // all ones: NaN or Inf
  uint32_t bad_values = 0;
  for (const float v : values) bad_values |= (std::bit_cast<uint32_t>(v) & kExponent) == kExponent ? 1 : 0;
  if (bad_values == 0) return;
  const auto bad = std::find_if(values.begin(), values.end(), [](float v) { return !std::isfinite(v); });
  const int64_t at = first + (bad - values.begin());
  const std::string place =
      columns > 0 ? fmt::format(" (row {}, column {})", at / columns, at % columns) : std::string();
  throw NumericError(
      fmt::format("{}: tensor {}: expected finite values, found {} at element {}{}; the checkpoint is damaged or was "
                  "saved after training had diverged: fetch it again or take an earlier one",
                  source.path(), source.stored_name(name), *bad, at, place));
}

std::vector<float> load_vector(const ModelSource& source, const std::string& name, int64_t first, int64_t count) {
  const Matrix m = source.load(name);
  if (first + count > m.size()) {
    throw FormatError(fmt::format("{}: tensor {}: expected at least {} values, found {}", source.path(),
                                  source.stored_name(name), first + count, m.size()));
  }
  const auto values = m.values().subspan(static_cast<size_t>(first), static_cast<size_t>(count));
  check_finite(values, name, source, first);
  return {values.begin(), values.end()};
}

// What load_weight finds wrong with the floats of a linear, found in its codes.
void check_codes(const StoredCodes& codes, const LinearSlot& slot, const ModelSource& source) {
  const QuantizedTensor& t = codes.tensor;
  validate(t, fmt::format("{}: tensor {}", source.path(), source.stored_name(slot.weight)));
  if (t.in_features != slot.columns || t.out_features < slot.first_row + slot.rows) {
    throw FormatError(fmt::format("{}: tensor {}: expected at least {} outputs of {} inputs, found [{}, {}]",
                                  source.path(), source.stored_name(slot.weight), slot.first_row + slot.rows,
                                  slot.columns, t.out_features, t.in_features));
  }
  for (size_t k = 0; k < codes.q_scale.size(); ++k) {
    const float scale = f16_to_f32(codes.q_scale[k]);
    if (std::isfinite(scale) && scale != 0.0f) continue;
    throw NumericError(fmt::format(
        "{}: tensor {}: expected a q_scale of finite values other than 0, found {} at channel {}; the checkpoint is "
        "damaged",
        source.path(), source.stored_name(slot.weight), scale, k));
  }
}

Matrix load_weight(const ModelSource& source, const LinearSlot& slot) {
  Matrix weight = source.load(slot.weight, slot.first_row, slot.rows);
  check_finite(weight.values(), slot.weight, source, slot.first_row * slot.columns, slot.columns);
  return weight;
}

std::vector<float> load_bias(const ModelSource& source, const LinearSlot& slot) {
  if (!slot.has_bias) return {};
  std::vector<float> bias = load_vector(source, bias_name(slot.weight), slot.first_row, slot.rows);
  source.release(bias_name(slot.weight));
  return bias;
}

std::array<std::vector<float>, kNorms> load_norms(const ModelSource& source, int64_t layer) {
  std::array<std::vector<float>, kNorms> norms;
  for (int i = 0; i < kNorms; ++i) {
    const auto kind = static_cast<NormKind>(i);
    const std::string name = source.norm_name(layer, kind);
    if (name.empty()) continue;
    const bool per_head = kind == NormKind::kQ || kind == NormKind::kK;
    norms[static_cast<size_t>(i)] =
        load_vector(source, name, 0, per_head ? source.config().head_dim : source.config().hidden_size);
    source.release(name);
  }
  return norms;
}

}  // namespace

Block load_block(const ModelSource& source, int64_t layer) {
  Block block;
  for (const LinearSlot& slot : source.linears(layer)) {
    stop_if_asked();
    Linear& l = block.linear(slot.kind);
    l.weight = load_weight(source, slot);
    l.bias = load_bias(source, slot);
    source.release(slot.weight);
  }
  block.norms = load_norms(source, layer);
  return block;
}

std::shared_ptr<const PreparedBlock> load_prepared_block(const ModelSource& source, int64_t layer,
                                                         MatmulPrecision precision, bool codes) {
  if (!codes) return std::make_shared<const PreparedBlock>(load_block(source, layer), precision, false);
  PreparedBlock::Linears linears;
  std::map<std::string, std::optional<StoredCodes>> stored;  // fused weights are read once
  for (const LinearSlot& slot : source.linears(layer)) {
    stop_if_asked();
    PreparedLinear& l = linears[static_cast<size_t>(slot.kind)];
    const auto blocks = source.load_blocks(slot.weight, slot.first_row, slot.rows);
    auto it = stored.find(slot.weight);
    if (!blocks && it == stored.end()) {
      stored.clear();
      it = stored.emplace(slot.weight, source.load_codes(slot.weight)).first;
    }
    if (blocks) {
      l.weight = std::move(*blocks);
    } else if (it->second) {
      check_codes(*it->second, slot, source);
      l.weight = WeightMatrix::of_codes(it->second->tensor, slot.first_row, slot.rows, it->second->q_scale);
    } else {
      const Matrix weight = load_weight(source, slot);
      l.weight = WeightMatrix(weight.data(), weight.rows(), weight.cols(), precision);
    }
    l.bias = load_bias(source, slot);
    source.release(slot.weight);
  }
  return std::make_shared<const PreparedBlock>(std::move(linears), load_norms(source, layer));
}

void embed(const ModelSource& source, std::span<const int32_t> ids, Matrix& states, const RowRounding& rounding) {
  const auto& config = source.config();
  const int64_t hidden = config.hidden_size;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= config.vocab_size) {
      throw ArgumentError(
          fmt::format("embedding: token {} at position {} is outside 0..{}", ids[i], i, config.vocab_size - 1));
    }
  }
  states = Matrix(static_cast<int64_t>(ids.size()), hidden);
  std::unordered_map<int32_t, int64_t> seen;  // id -> first row that holds it
  const auto multiplier = static_cast<float>(config.embedding_multiplier);
  for (size_t i = 0; i < ids.size(); ++i) {
    const auto row = static_cast<int64_t>(i);
    const auto [at, is_new] = seen.emplace(ids[i], row);
    if (is_new) {
      Matrix m = source.load(source.family().embedding, ids[i], 1);
      check_finite(m.values(), source.family().embedding, source, ids[i] * hidden, hidden);
      if (rounding) rounding(source.family().embedding, m);
      std::memcpy(states.row(row).data(), m.data(), static_cast<size_t>(hidden) * sizeof(float));
      if (multiplier != 1.0f) kernels().scale(multiplier, hidden, states.row(row).data());
    } else {
      std::memcpy(states.row(row).data(), states.row(at->second).data(), static_cast<size_t>(hidden) * sizeof(float));
    }
  }
  source.release(source.family().embedding);
}

struct Head::Impl {
  OwnedTensor weight;                // [vocab, hidden] in F16, BF16 or F32; empty when packed
  std::vector<PackedWeight> packed;  // the same rounded to bf16, kTile rows each: a head that is used for every token
  WeightMatrix codes;                // with HeadBits::k8, in place of both
  std::vector<float> norm;
  int64_t vocab = 0;
  int64_t hidden = 0;
  float offset = 0;
  float eps = 0;
  float cap = 0;
  MatmulPrecision type = MatmulPrecision::kF32;

  static constexpr int64_t kTile = 512;    // rows of the vocabulary that are converted at once
  static constexpr int64_t kStates = 512;  // states of one product

  const std::byte* row(int64_t r) const noexcept {
    return weight.bytes.data() + static_cast<size_t>(r * hidden) * dtype_size(weight.dtype);
  }
  // Returns rows first .. first + count - 1 in f32: the stored ones, or `scratch` with the converted ones.
  const float* rows_f32(int64_t first, int64_t count, float* scratch) const {
    if (weight.dtype == DType::kF32) return reinterpret_cast<const float*>(row(first));
    const auto* bits = reinterpret_cast<const uint16_t*>(row(first));
    (weight.dtype == DType::kF16 ? kernels().f16_to_f32 : kernels().bf16_to_f32)(bits, count * hidden, scratch);
    return scratch;
  }
  // Converts tile by tile, so that the whole head is never held in f32.
  void pack() {
    std::vector<float> scratch(static_cast<size_t>(kTile * hidden));
    for (int64_t first = 0; first < vocab; first += kTile) {
      const int64_t count = std::min(kTile, vocab - first);
      packed.emplace_back(rows_f32(first, count, scratch.data()), count, hidden, type);
    }
    weight = OwnedTensor();
  }
  // logits [rows, vocab] of normed states, by the head's codes.
  void codes_logits(const Matrix& normed, float* out) const {
    WeightInput input;
    input.assign(codes, normed.data(), normed.rows(), true);
    parallel_for(codes.panels(), [&](int64_t p) {
      const int64_t begin = codes.panel_begin(p);
      multiply_panel(codes, p, input, nullptr, out, vocab);
      for (int64_t r = 0; cap > 0 && r < normed.rows(); ++r)
        kernels().softcap(out + r * vocab + begin, cap, codes.panel_width(p));
    });
  }
};

uint64_t Head::bytes(const ModelSource& source, HeadBits bits) {
  const ModelConfig& c = source.config();
  const std::string& name = source.head_tensor();
  if (bits == HeadBits::k8)
    return code_bytes(source.code_form(name).value_or(WeightMatrix::kRoundedForm), c.vocab_size, c.hidden_size);
  uint64_t element = 2;
  for (const CheckpointTensor& t : source.tensors()) {
    if (t.name == name && t.stored_as == "F32") element = sizeof(float);
  }
  return static_cast<uint64_t>(c.vocab_size) * static_cast<uint64_t>(c.hidden_size) * element;
}

namespace {

WeightMatrix load_head_codes(const ModelSource& source) {
  LinearSlot slot{};
  slot.weight = source.head_tensor();
  slot.rows = source.config().vocab_size;
  slot.columns = source.config().hidden_size;
  if (const auto blocks = source.load_blocks(slot.weight, 0, slot.rows)) return std::move(*blocks);
  const auto stored = source.load_codes(slot.weight);
  check_codes(*stored, slot, source);
  return WeightMatrix::of_codes(stored->tensor, 0, slot.rows, stored->q_scale);
}

// The head in float32, as rounding leaves it.
OwnedTensor load_rounded(const ModelSource& source, const std::string& name, const RowRounding& rounding) {
  const ModelConfig& c = source.config();
  OwnedTensor out{name, DType::kF32, {c.vocab_size, c.hidden_size}, {}};
  out.bytes = Buffer(static_cast<size_t>(c.vocab_size * c.hidden_size) * sizeof(float));
  constexpr int64_t kRows = 4096;
  for (int64_t first = 0; first < c.vocab_size; first += kRows) {
    stop_if_asked();
    Matrix rows = source.load(name, first, std::min(kRows, c.vocab_size - first));
    check_finite(rows.values(), name, source, first * c.hidden_size, c.hidden_size);
    rounding(name, rows);
    std::memcpy(out.bytes.data() + static_cast<size_t>(first * c.hidden_size) * sizeof(float), rows.data(),
                static_cast<size_t>(rows.size()) * sizeof(float));
  }
  return out;
}

}  // namespace

Head::Head(const ModelSource& source, MatmulPrecision precision, HeadBits bits, const RowRounding& rounding)
    : impl_(std::make_unique<Impl>()) {
  const auto& config = source.config();
  const auto& family = source.family();
  const std::string& name = source.head_tensor();
  impl_->vocab = config.vocab_size;
  impl_->hidden = config.hidden_size;
  if (bits == HeadBits::k8 && source.code_form(name)) {
    impl_->codes = load_head_codes(source);
  } else if (bits == HeadBits::k8) {
    impl_->codes =
        WeightMatrix::rounded_to_8_bits(config.vocab_size, config.hidden_size, [&](int64_t first, int64_t count) {
          stop_if_asked();
          Matrix rows = source.load(name, first, count);
          check_finite(rows.values(), name, source, first * config.hidden_size, config.hidden_size);
          return rows;
        });
  } else {
    impl_->weight = rounding ? load_rounded(source, name, rounding) : source.load_stored(name);
  }
  source.release(name);
  const OwnedTensor& w = impl_->weight;
  const std::vector<int64_t> expected{config.vocab_size, config.hidden_size};
  if (bits == HeadBits::kStored &&
      (w.shape != expected || (w.dtype != DType::kF16 && w.dtype != DType::kBF16 && w.dtype != DType::kF32))) {
    throw FormatError(fmt::format("{}: tensor {}: expected {} in F16, BF16 or F32, found {} in {}", source.path(),
                                  source.stored_name(name), shape_string(expected), shape_string(w.shape),
                                  dtype_name(w.dtype)));
  }
  impl_->norm = load_vector(source, family.final_norm, 0, config.hidden_size);
  impl_->offset = family.offset_norm ? 1.0f : 0.0f;
  impl_->eps = static_cast<float>(config.rms_norm_eps);
  impl_->cap = static_cast<float>(config.final_logit_softcapping);
  if (precision == MatmulPrecision::kBF16 && has_bf16_gemm() && bits == HeadBits::kStored) {
    impl_->type = MatmulPrecision::kBF16;
    impl_->pack();
  }
}

Head::~Head() = default;

int64_t Head::vocab_size() const noexcept {
  return impl_->vocab;
}

void Head::logits(const float* states, int64_t rows, float* out) const {
  constexpr int64_t kManyRows = 32;  // which take long with a large vocabulary
  if (rows >= kManyRows) stop_if_asked();
  const Impl& w = *impl_;
  const int64_t hidden = w.hidden;
  Matrix normed(rows, hidden);
  constexpr int64_t kNormRows = 64;
  parallel_for((rows + kNormRows - 1) / kNormRows, [&](int64_t i) {
    for (int64_t r = i * kNormRows; r < std::min(rows, (i + 1) * kNormRows); ++r) {
      kernels().rms_norm(states + r * hidden, w.norm.data(), w.offset, w.eps, hidden, normed.row(r).data());
    }
  });
  if (w.codes.type() == WeightType::kCodes) {
    w.codes_logits(normed, out);
    return;
  }
  Buffer rounded;
  const void* input = normed.data();
  const size_t element = w.type == MatmulPrecision::kBF16 ? 2 : 4;
  if (w.type == MatmulPrecision::kBF16) {
    rounded = Buffer(static_cast<size_t>(normed.size()) * element);
    kernels().f32_to_bf16(normed.data(), normed.size(), reinterpret_cast<uint16_t*>(rounded.data()));
    input = rounded.data();
  }
  parallel_for((w.vocab + Impl::kTile - 1) / Impl::kTile, [&](int64_t tile) {
    const int64_t first = tile * Impl::kTile;
    const int64_t count = std::min(Impl::kTile, w.vocab - first);
    constexpr int64_t kFew = 4;  // with so few states, reading the weights costs more than the arithmetic
    const bool dots = rows <= kFew && w.packed.empty();
    const float* weight = w.packed.empty() ? w.rows_f32(first, count, thread_scratch(3, count * hidden)) : nullptr;
    for (int64_t r = 0; r < rows; r += Impl::kStates) {
      const int64_t n = std::min(Impl::kStates, rows - r);
      float* y = thread_scratch(4, n * count);
      const auto* x = static_cast<const std::byte*>(input) + static_cast<size_t>(r * hidden) * element;
      if (!w.packed.empty()) {
        w.packed[static_cast<size_t>(tile)].multiply(0, x, n, y);
      } else if (dots) {
        for (int64_t i = 0; i < n; ++i) {
          kernels().dot_rows(normed.row(r + i).data(), weight, hidden, count, hidden, y + i * count);
        }
      } else {
        multiply_stored(MatmulPrecision::kF32, weight, count, hidden, x, n, y);
      }
      if (w.cap > 0) kernels().softcap(y, w.cap, n * count);
      for (int64_t i = 0; i < n; ++i) {
        std::memcpy(out + (r + i) * w.vocab + first, y + i * count, static_cast<size_t>(count) * sizeof(float));
      }
    }
  });
}

}  // namespace metal_marlin

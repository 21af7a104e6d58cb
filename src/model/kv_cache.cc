#include "model/kv_cache.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "core/checked.h"
#include "kernels/dispatch.h"

namespace metal_marlin {

KvCache::KvCache(const ModelConfig& config, int64_t sequences, int64_t capacity, KvStorage storage)
    : layers_(config.num_hidden_layers),
      sequences_(sequences),
      capacity_(capacity),
      heads_(config.num_key_value_heads),
      head_dim_(config.head_dim),
      storage_(storage) {
  if (sequences <= 0 || capacity <= 0) {
    throw ArgumentError(fmt::format("key-value cache: expected at least one sequence and one position, found {} and {}",
                                    sequences, capacity));
  }
  const std::array<int64_t, 4> shape{sequences, heads_, capacity, head_dim_};
  const auto bytes = checked_bytes(shape, storage == KvStorage::kF16 ? 2 : 4);
  if (!bytes) {
    throw ArgumentError(fmt::format("key-value cache: {} sequences of {} positions are too many", sequences, capacity));
  }
  for (int64_t l = 0; l < layers_; ++l) {
    keys_.emplace_back(static_cast<size_t>(*bytes));
    values_.emplace_back(static_cast<size_t>(*bytes));
  }
  lengths_.assign(static_cast<size_t>(layers_ * sequences_), 0);
}

uint64_t KvCache::bytes() const noexcept {
  return keys_.empty() ? 0 : 2 * static_cast<uint64_t>(layers_) * keys_.front().size();
}

void KvCache::truncate(int64_t sequence, int64_t length) {
  if (sequence < 0 || sequence >= sequences_ || length < 0) {
    throw ArgumentError(fmt::format("key-value cache: no sequence {} of length {}", sequence, length));
  }
  for (int64_t l = 0; l < layers_; ++l) {
    auto& held = lengths_[index(l, sequence)];
    held = std::min(held, length);
  }
}

void KvCache::store(Buffer& buffer, const float* rows, int64_t ld, int64_t sequence, int64_t first, int64_t count) {
  const auto n = static_cast<size_t>(head_dim_);
  std::vector<float> clamped(n);
  for (int64_t r = 0; r < count; ++r) {
    for (int64_t h = 0; h < heads_; ++h) {
      const float* from = rows + r * ld + h * head_dim_;
      const int64_t at = offset(sequence, h, first + r);
      if (storage_ == KvStorage::kF32) {
        std::memcpy(reinterpret_cast<float*>(buffer.data()) + at, from, n * sizeof(float));
      } else {
        for (size_t i = 0; i < n; ++i) clamped[i] = std::clamp(from[i], -65504.0f, 65504.0f);
        kernels().f32_to_f16(clamped.data(), head_dim_, reinterpret_cast<uint16_t*>(buffer.data()) + at);
      }
    }
  }
}

void KvCache::append(int64_t layer, int64_t sequence, const float* k, const float* v, int64_t ld, int64_t count) {
  auto& held = lengths_[index(layer, sequence)];
  if (held + count > capacity_) {
    throw ArgumentError(
        fmt::format("key-value cache: sequence {} has {} positions and {} more are added, beyond the "
                    "capacity of {}; make the cache larger",
                    sequence, held, count, capacity_));
  }
  store(keys_[static_cast<size_t>(layer)], k, ld, sequence, held, count);
  store(values_[static_cast<size_t>(layer)], v, ld, sequence, held, count);
  held += count;
}

const float* KvCache::load(const Buffer& buffer, int64_t sequence, int64_t head, int64_t first, int64_t count,
                           float* scratch) const {
  const int64_t at = offset(sequence, head, first);
  if (storage_ == KvStorage::kF32) return reinterpret_cast<const float*>(buffer.data()) + at;
  kernels().f16_to_f32(reinterpret_cast<const uint16_t*>(buffer.data()) + at, count * head_dim_, scratch);
  return scratch;
}

const float* KvCache::keys(int64_t layer, int64_t sequence, int64_t head, int64_t first, int64_t count,
                           float* scratch) const {
  return load(keys_[static_cast<size_t>(layer)], sequence, head, first, count, scratch);
}

const float* KvCache::values(int64_t layer, int64_t sequence, int64_t head, int64_t first, int64_t count,
                             float* scratch) const {
  return load(values_[static_cast<size_t>(layer)], sequence, head, first, count, scratch);
}

}  // namespace metal_marlin

// Keys and values of earlier positions, for generation. They are stored per layer as [sequence][kv
// head][position][head_dim], so that a head's history is contiguous.
#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor.h"
#include "source/model_config.h"

namespace metal_marlin {

enum class KvStorage : uint8_t { kF16, kF32 };

class KvCache {
 public:
  // Makes room for `capacity` positions of each of `sequences` sequences. Memory is touched only as it fills up. Throws
  // ArgumentError for sizes <= 0, SystemError when there is no memory.
  KvCache(const ModelConfig& config, int64_t sequences, int64_t capacity, KvStorage storage = KvStorage::kF16);

  int64_t sequences() const noexcept { return sequences_; }
  int64_t capacity() const noexcept { return capacity_; }
  uint64_t bytes() const noexcept;
  // Returns the positions held for a sequence in a layer. Layers differ while a forward pass is under way.
  int64_t length(int64_t layer, int64_t sequence) const noexcept { return lengths_[index(layer, sequence)]; }
  // Keeps only the first `length` positions of a sequence, in all layers.
  void truncate(int64_t sequence, int64_t length);

  // Adds `count` rows of k and v [count, kv_heads * head_dim] with row stride ld. f16 storage clamps to +-65504. Throws
  // ArgumentError when the capacity is exceeded.
  void append(int64_t layer, int64_t sequence, const float* k, const float* v, int64_t ld, int64_t count);

  // Returns the keys (or values) of positions first .. first + count - 1 of one kv head, contiguous [count, head_dim].
  // The pointer is into the cache, or to `scratch` [count, head_dim], which then holds them in f32.
  const float* keys(int64_t layer, int64_t sequence, int64_t head, int64_t first, int64_t count, float* scratch) const;
  const float* values(int64_t layer, int64_t sequence, int64_t head, int64_t first, int64_t count,
                      float* scratch) const;

 private:
  size_t index(int64_t layer, int64_t sequence) const noexcept {
    return static_cast<size_t>(layer * sequences_ + sequence);
  }
  int64_t offset(int64_t sequence, int64_t head, int64_t position) const noexcept {
    return ((sequence * heads_ + head) * capacity_ + position) * head_dim_;
  }
  void store(Buffer& buffer, const float* rows, int64_t ld, int64_t sequence, int64_t first, int64_t count);
  const float* load(const Buffer& buffer, int64_t sequence, int64_t head, int64_t first, int64_t count,
                    float* scratch) const;

  int64_t layers_;
  int64_t sequences_;
  int64_t capacity_;
  int64_t heads_;
  int64_t head_dim_;
  KvStorage storage_;
  std::vector<Buffer> keys_;  // per layer
  std::vector<Buffer> values_;
  std::vector<int64_t> lengths_;
};

}  // namespace metal_marlin

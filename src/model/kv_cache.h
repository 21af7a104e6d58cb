// Keys and values of earlier positions, for generation: pages of kKvPage positions from one pool.
//
// Every layer of every sequence has a list of pages. A page belongs to one layer and holds all its key-value heads,
// each laid out as kernels/kv_attention.h says. Sequences may share pages (fork); a shared page is copied before it is
// written. Layers with a sliding window give back the pages that no later query sees.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/tensor.h"
#include "families/config/model_config.h"
#include "kernels/kv_attention.h"

namespace metal_marlin {

class KvCache {
 public:
  // Room for `capacity` positions of each of `sequences` sequences. Memory is taken as positions come. Throws
  // ArgumentError for sizes <= 0 and for sizes that no address can count.
  KvCache(const ModelConfig& config, int64_t sequences, int64_t capacity, KvType type = KvType::kF16);

  int64_t sequences() const noexcept { return sequences_; }
  int64_t capacity() const noexcept { return capacity_; }
  // Positions that a sequence may have from here on; sequences that are longer keep what they have. ArgumentError as
  // the constructor.
  void set_capacity(int64_t capacity);
  KvType type() const noexcept { return type_; }
  // Bytes of the pages that are in use, each counted once.
  uint64_t bytes() const noexcept;
  // Bytes that sequences of `capacity` positions take at most.
  static uint64_t most_bytes(const ModelConfig& config, int64_t sequences, int64_t capacity, KvType type);

  // Returns the positions held for a sequence in a layer. Layers differ while a forward pass is under way.
  int64_t length(int64_t layer, int64_t sequence) const noexcept { return lists_[index(layer, sequence)].length; }
  // Whether a sequence can be cut to its first `length` positions and go on: in layers with a sliding window the
  // positions that the next query sees may be gone.
  bool can_truncate(int64_t sequence, int64_t length) const;
  // Keeps only the first `length` positions of a sequence, in all layers; all when it has fewer. ArgumentError when
  // can_truncate() is false.
  void truncate(int64_t sequence, int64_t length);
  // Makes the first `length` positions of sequence `from` those of sequence `to`, which loses its own. No position is
  // copied but those of a last page that is not full. ArgumentError as truncate().
  void fork(int64_t from, int64_t to, int64_t length);

  // Adds `count` rows of k and v [count, kv_heads * head_dim] with row stride ld. f16 clamps to +-65504; 8 bits have a
  // scale per position and head, max |x| / 127. Throws ArgumentError when the capacity is exceeded, SystemError when
  // there is no memory.
  void append(int64_t layer, int64_t sequence, const float* k, const float* v, int64_t ld, int64_t count);

  // The page of the positions from `number` * kKvPage on, of one key-value head. The page must be held.
  const std::byte* page(int64_t layer, int64_t sequence, int64_t number, int64_t head) const noexcept {
    return at(lists_[index(layer, sequence)].pages[static_cast<size_t>(number)]) + head * head_bytes_;
  }

 private:
  static constexpr int32_t kGone = -1;
  struct List {
    std::vector<int32_t> pages;  // kGone: given back
    int64_t length = 0;
    int64_t first = 0;  // the first page that is held
  };

  size_t index(int64_t layer, int64_t sequence) const noexcept {
    return static_cast<size_t>(layer * sequences_ + sequence);
  }
  std::byte* at(int32_t page) const noexcept {
    return slabs_[static_cast<size_t>(page / slab_pages_)] + (page % slab_pages_) * page_bytes_;
  }
  void check(int64_t sequence) const;
  int32_t take();
  void give_back(int32_t page);
  void cut(List& list, int64_t length);
  int32_t writable(List& list, size_t number);
  void store(int64_t head, std::byte* page, int64_t slot, const float* k, const float* v);

  ModelConfig config_;
  int64_t layers_;
  int64_t sequences_;
  int64_t capacity_;
  int64_t heads_;
  int64_t head_dim_;
  KvType type_;
  int64_t head_bytes_;  // of one head's part of a page
  int64_t page_bytes_;
  int64_t slab_pages_;
  std::vector<int64_t> windows_;  // by layer; 0: none
  std::vector<List> lists_;       // by layer and sequence
  std::vector<Buffer> memory_;
  std::vector<std::byte*> slabs_;
  std::vector<int32_t> users_;  // by page: how many lists hold it
  std::vector<int32_t> free_;
};

}  // namespace metal_marlin

#include "model/kv_cache.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/checked.h"
#include "core/counted.h"
#include "core/half.h"
#include "kernels/dispatch.h"
#include "model/attention.h"

namespace metal_marlin {
namespace {

constexpr int64_t kSlabBytes = int64_t{1} << 20;  // memory is taken in such pieces, or of one page where that is larger

int64_t pages_of(int64_t positions) {
  return positions / kKvPage + (positions % kKvPage != 0 ? 1 : 0);
}

}  // namespace

uint64_t KvCache::most_bytes(const ModelConfig& config, int64_t sequences, int64_t capacity, KvType type) {
  if (sequences <= 0 || capacity <= 0) {
    throw ArgumentError(fmt::format("key-value cache: expected at least one sequence and one position, found {} and {}",
                                    sequences, capacity));
  }
  const std::array<int64_t, 5> shape{config.num_hidden_layers, sequences, pages_of(capacity),
                                     config.num_key_value_heads, kv_page_bytes(type, config.head_dim)};
  const auto bytes = checked_bytes(shape, 1);
  if (!bytes || *bytes / static_cast<uint64_t>(shape[3] * shape[4]) > std::numeric_limits<int32_t>::max()) {
    throw ArgumentError(fmt::format("key-value cache: {} of {} are too many", counted(sequences, "sequence"),
                                    counted(capacity, "position")));
  }
  return *bytes;
}

KvCache::KvCache(const ModelConfig& config, int64_t sequences, int64_t capacity, KvType type)
    : config_(config),
      layers_(config.num_hidden_layers),
      sequences_(sequences),
      capacity_(capacity),
      heads_(config.num_key_value_heads),
      head_dim_(config.head_dim),
      type_(type),
      head_bytes_(kv_page_bytes(type, config.head_dim)),
      page_bytes_(heads_ * head_bytes_),
      slab_pages_(std::max<int64_t>(1, kSlabBytes / page_bytes_)) {
  most_bytes(config, sequences, capacity, type);
  windows_.assign(static_cast<size_t>(layers_), 0);
  std::copy_n(config.sliding_window.begin(), std::min(config.sliding_window.size(), windows_.size()), windows_.begin());
  lists_.resize(static_cast<size_t>(layers_ * sequences_));
}

void KvCache::set_capacity(int64_t capacity) {
  most_bytes(config_, sequences_, capacity, type_);
  capacity_ = capacity;
}

uint64_t KvCache::bytes() const noexcept {
  return (users_.size() - free_.size()) * static_cast<uint64_t>(page_bytes_);
}

void KvCache::check(int64_t sequence) const {
  if (sequence < 0 || sequence >= sequences_) {
    throw ArgumentError(fmt::format("key-value cache: no sequence {} among {}", sequence, sequences_));
  }
}

int32_t KvCache::take() {
  if (free_.empty()) {
    Buffer& slab = memory_.emplace_back(static_cast<size_t>(slab_pages_ * page_bytes_), Touch::kSparsely);
    slabs_.push_back(slab.data());
    const auto first = static_cast<int32_t>(users_.size());
    users_.resize(users_.size() + static_cast<size_t>(slab_pages_), 0);
    for (int64_t i = slab_pages_; i-- > 0;) free_.push_back(first + static_cast<int32_t>(i));
  }
  const int32_t page = free_.back();
  free_.pop_back();
  users_[static_cast<size_t>(page)] = 1;
  return page;
}

void KvCache::give_back(int32_t page) {
  if (page != kGone && --users_[static_cast<size_t>(page)] == 0) free_.push_back(page);
}

void KvCache::cut(List& list, int64_t length) {
  if (length >= list.length) return;
  const auto keep = static_cast<size_t>(pages_of(length));
  for (size_t i = keep; i < list.pages.size(); ++i) give_back(list.pages[i]);
  list.pages.resize(keep);
  list.length = length;
  list.first = std::min(list.first, static_cast<int64_t>(keep));
}

bool KvCache::can_truncate(int64_t sequence, int64_t length) const {
  check(sequence);
  if (length <= 0) return length == 0;
  for (int64_t l = 0; l < layers_; ++l) {
    const List& list = lists_[index(l, sequence)];
    const int64_t needed = first_visible(std::min(length, list.length), windows_[static_cast<size_t>(l)]);
    if (needed < list.first * kKvPage) return false;
  }
  return true;
}

void KvCache::truncate(int64_t sequence, int64_t length) {
  check(sequence);
  if (!can_truncate(sequence, length)) {
    throw ArgumentError(
        fmt::format("key-value cache: sequence {} cannot go back to {}", sequence, counted(length, "position")));
  }
  for (int64_t l = 0; l < layers_; ++l) cut(lists_[index(l, sequence)], length);
}

void KvCache::fork(int64_t from, int64_t to, int64_t length) {
  check(to);
  if (!can_truncate(from, length)) {
    throw ArgumentError(fmt::format("key-value cache: sequence {} cannot be shared up to position {}", from, length));
  }
  if (from == to) return truncate(from, length);
  for (int64_t l = 0; l < layers_; ++l) {
    List& target = lists_[index(l, to)];
    cut(target, 0);
    const List& source = lists_[index(l, from)];
    target.length = std::min(length, source.length);
    target.first = source.first;
    target.pages.assign(source.pages.begin(), source.pages.begin() + pages_of(target.length));
    for (const int32_t page : target.pages) {
      if (page != kGone) ++users_[static_cast<size_t>(page)];
    }
  }
}

int32_t KvCache::writable(List& list, size_t number) {
  if (number == list.pages.size()) list.pages.push_back(take());
  int32_t page = list.pages[number];
  if (users_[static_cast<size_t>(page)] > 1) {
    const int32_t copy = take();
    std::memcpy(at(copy), at(page), static_cast<size_t>(page_bytes_));
    give_back(page);
    list.pages[number] = page = copy;
  }
  return page;
}

// One position of one head: `slot` is its place in the page.
void KvCache::store(int64_t head, std::byte* page, int64_t slot, const float* k, const float* v) {
  std::byte* part = page + head * head_bytes_;
  const int64_t padded = padded_head_dim(head_dim_);
  switch (type_) {
    case KvType::kF32: {
      auto* keys = reinterpret_cast<float*>(part);
      for (int64_t i = 0; i < head_dim_; ++i) keys[i * kKvPage + slot] = k[i];
      std::copy_n(v, head_dim_, keys + kKvPage * head_dim_ + slot * padded);
      return;
    }
    case KvType::kF16: {
      auto* keys = reinterpret_cast<uint16_t*>(part);
      constexpr int64_t kPiece = 64;
      float clamped[kPiece];
      uint16_t half[kPiece];
      const auto convert = [&](const float* x, int64_t n, uint16_t* y) {
        for (int64_t i = 0; i < n; ++i) clamped[i] = std::clamp(x[i], -65504.0f, 65504.0f);
        kernels().f32_to_f16(clamped, n, y);
      };
      for (int64_t i = 0; i < head_dim_; i += kPiece) {
        const int64_t n = std::min(kPiece, head_dim_ - i);
        convert(k + i, n, half);
        for (int64_t j = 0; j < n; ++j) keys[(i + j) * kKvPage + slot] = half[j];
        convert(v + i, n, keys + kKvPage * head_dim_ + slot * padded + i);
      }
      return;
    }
    case KvType::kI8: {
      auto* keys = reinterpret_cast<int8_t*>(part);
      auto* values = keys + kKvPage * head_dim_ + slot * padded;
      auto* scales = reinterpret_cast<float*>(keys + kKvPage * (head_dim_ + padded));
      // NaN and infinity make the scale NaN, so that they are not lost.
      const auto scale_of = [&](const float* x) {
        float most = 0;
        bool finite = true;
        for (int64_t i = 0; i < head_dim_; ++i) {
          most = std::max(most, std::fabs(x[i]));
          finite = finite && std::isfinite(x[i]);
        }
        return finite ? most / 127 : std::numeric_limits<float>::quiet_NaN();
      };
      const auto code = [](float x, float scale) {
        if (!(scale > 0)) return int8_t{0};
        return static_cast<int8_t>(std::clamp(std::nearbyint(x / scale), -127.0f, 127.0f));
      };
      scales[slot] = scale_of(k);
      scales[kKvPage + slot] = scale_of(v);
      for (int64_t i = 0; i < head_dim_; ++i) {
        keys[i * kKvPage + slot] = code(k[i], scales[slot]);
        values[i] = code(v[i], scales[kKvPage + slot]);
      }
      return;
    }
  }
}

void KvCache::append(int64_t layer, int64_t sequence, const float* k, const float* v, int64_t ld, int64_t count) {
  List& list = lists_[index(layer, sequence)];
  if (count > capacity_ - list.length) {
    throw ArgumentError(
        fmt::format("key-value cache: sequence {} has {} and {} more are added, beyond the "
                    "capacity of {}; make the cache larger",
                    sequence, counted(list.length, "position"), count, capacity_));
  }
  // Give back the pages that no query from here on sees, but for one: a sequence may go back by a few positions.
  const int64_t seen = first_visible(list.length, windows_[static_cast<size_t>(layer)]) / kKvPage - 1;
  for (; list.first < seen; ++list.first) {
    int32_t& page = list.pages[static_cast<size_t>(list.first)];
    give_back(page);
    page = kGone;
  }
  for (int64_t row = 0; row < count;) {
    const int64_t slot = list.length % kKvPage;
    const int64_t rows = std::min(kKvPage - slot, count - row);
    std::byte* page = at(writable(list, static_cast<size_t>(list.length / kKvPage)));
    for (int64_t r = 0; r < rows; ++r, ++row) {
      for (int64_t h = 0; h < heads_; ++h) {
        store(h, page, slot + r, k + row * ld + h * head_dim_, v + row * ld + h * head_dim_);
      }
    }
    list.length += rows;
  }
}

}  // namespace metal_marlin

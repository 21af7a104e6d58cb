#include "pack/bits/row_stream.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstring>

#include "core/threads.h"

namespace metal_marlin {
namespace {

static_assert(std::endian::native == std::endian::little);

// Eight codes of one byte each <-> the lowest 8 bits bits, in three steps that join neighbours: bytes to halves of 2
// bits bits, halves to words, words to one.
struct Lanes {
  std::array<uint64_t, 3> low;   // of each step: the lower neighbour
  std::array<uint64_t, 3> high;  // the upper one
  std::array<int, 3> shift;

  explicit constexpr Lanes(int bits) : low{}, high{}, shift{} {
    for (int step = 0; step < 3; ++step) {
      const int lane = 8 << step;       // bits between neighbours
      const int filled = bits << step;  // bits of each
      const uint64_t mask = (uint64_t{1} << filled) - 1;
      for (int at = 0; at < 64; at += 2 * lane) {
        low[static_cast<size_t>(step)] |= mask << at;
        high[static_cast<size_t>(step)] |= mask << (at + lane);
      }
      shift[static_cast<size_t>(step)] = lane - filled;
    }
  }
};

uint64_t join(uint64_t x, const Lanes& lanes) noexcept {
  for (size_t i = 0; i < 3; ++i) x = (x & lanes.low[i]) | (x & lanes.high[i]) >> lanes.shift[i];
  return x;
}

uint64_t split(uint64_t x, const Lanes& lanes) noexcept {
  for (size_t i = 3; i-- > 0;) x = (x & lanes.low[i]) | (x << lanes.shift[i] & lanes.high[i]);
  return x;
}

// One row; `words` has row_words(in, bits) words. Returns the bits that were set in any code.
uint64_t pack_row(const uint8_t* codes, int64_t in_features, int bits, const Lanes& lanes, std::byte* out) noexcept {
  const auto step = static_cast<size_t>(bits);  // bytes of eight codes
  std::byte* const end = out + 4 * row_words(in_features, bits);
  uint64_t seen = 0;
  int64_t k = 0;
  uint64_t x = 0;
  // Eight bytes are written where they fit; the next ones overwrite what is too much.
  for (; k + 8 <= in_features && end - out >= 8; k += 8, out += step) {
    std::memcpy(&x, codes + k, 8);
    seen |= x;
    x = join(x, lanes);
    std::memcpy(out, &x, 8);
  }
  for (; k < in_features; k += 8) {
    x = 0;
    std::memcpy(&x, codes + k, static_cast<size_t>(std::min<int64_t>(8, in_features - k)));
    seen |= x;
    x = join(x, lanes);
    const size_t fits = std::min(step, static_cast<size_t>(end - out));
    std::memcpy(out, &x, fits);
    out += fits;
  }
  std::memset(out, 0, static_cast<size_t>(end - out));
  return seen;
}

void unpack_row(const std::byte* words, int64_t in_features, int bits, const Lanes& lanes, uint8_t* codes) noexcept {
  const auto step = static_cast<size_t>(bits);
  const std::byte* const end = words + 4 * row_words(in_features, bits);
  uint64_t x = 0;
  int64_t k = 0;
  for (; k + 8 <= in_features && end - words >= 8; k += 8, words += step) {
    std::memcpy(&x, words, 8);
    x = split(x, lanes);
    std::memcpy(codes + k, &x, 8);
  }
  for (; k < in_features; k += 8) {
    x = 0;
    const size_t there = std::min(step, static_cast<size_t>(end - words));
    std::memcpy(&x, words, there);
    words += there;
    x = split(x, lanes);
    std::memcpy(codes + k, &x, static_cast<size_t>(std::min<int64_t>(8, in_features - k)));
  }
}

// Rows that one thread does at a time: some 256 KiB of codes.
int64_t rows_at_once(int64_t in_features) noexcept {
  return std::max<int64_t>(1, (int64_t{256} << 10) / std::max<int64_t>(1, in_features));
}

template <typename F>
void for_rows(int64_t out_features, int64_t in_features, const F& fn) {
  const int64_t step = rows_at_once(in_features);
  parallel_for((out_features + step - 1) / step, [&](int64_t i) {
    for (int64_t n = i * step; n < std::min(out_features, (i + 1) * step); ++n) fn(n);
  });
}

}  // namespace

bool pack_rows(const uint8_t* codes, int64_t out_features, int64_t in_features, int bits, std::byte* words) {
  const Lanes lanes(bits);
  const int64_t row_bytes = 4 * row_words(in_features, bits);
  std::atomic<uint64_t> seen{0};
  for_rows(out_features, in_features, [&](int64_t n) {
    const uint64_t row = pack_row(codes + n * in_features, in_features, bits, lanes, words + n * row_bytes);
    if (bits < 8) seen.fetch_or(row, std::memory_order_relaxed);
  });
  return (seen & ~(0x0101010101010101u * ((uint64_t{1} << bits) - 1))) == 0;
}

void unpack_rows(const std::byte* words, int64_t out_features, int64_t in_features, int bits, uint8_t* codes) {
  const Lanes lanes(bits);
  const int64_t row_bytes = 4 * row_words(in_features, bits);
  for_rows(out_features, in_features,
           [&](int64_t n) { unpack_row(words + n * row_bytes, in_features, bits, lanes, codes + n * in_features); });
}

}  // namespace metal_marlin

#include "pack/bits/nibble_rows.h"

#include <algorithm>
#include <array>

#include "pack/bits/nibbles.h"

namespace metal_marlin {
namespace {

constexpr int64_t kPerWord = 8;

}  // namespace

void pack_nibble_rows(const uint8_t* codes, int64_t rows, int64_t columns, std::span<const uint8_t> padding,
                      uint32_t* words) {
  for (int64_t r = 0; r < rows; ++r) {
    const uint8_t* row = codes + r * columns;
    for (int64_t c = 0; c < columns; c += kPerWord) {
      std::array<uint8_t, kPerWord> eight;
      eight.fill(padding.empty() ? uint8_t{0} : padding[static_cast<size_t>(r)]);
      std::copy_n(row + c, std::min(kPerWord, columns - c), eight.begin());
      *words++ = bytes_to_nibbles(load<uint64_t>(eight.data()));
    }
  }
}

std::vector<uint8_t> unpack_nibble_rows(const uint32_t* words, int64_t rows, int64_t columns) {
  std::vector<uint8_t> codes(static_cast<size_t>(rows * columns));
  uint8_t* to = codes.data();
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; c += kPerWord) {
      std::array<uint8_t, kPerWord> eight;
      store(eight.data(), nibbles_to_bytes(*words++));
      to = std::copy_n(eight.data(), std::min(kPerWord, columns - c), to);
    }
  }
  return codes;
}

}  // namespace metal_marlin

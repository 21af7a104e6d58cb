#include "pack/bits/nibble_rows.h"

#include <gtest/gtest.h>

#include <vector>

#include "core/random.h"

namespace metal_marlin {
namespace {

TEST(NibbleRows, EachNibbleIsInItsPlace) {
  Random random(1);
  for (const int64_t columns : {1, 7, 8, 9, 30}) {
    constexpr int64_t rows = 5;
    std::vector<uint8_t> codes(static_cast<size_t>(rows * columns));
    for (uint8_t& c : codes) c = static_cast<uint8_t>(random.below(16));
    const std::vector<uint8_t> padding = {0, 15, 8, 3, 1};
    const int64_t width = (columns + 7) / 8;
    std::vector<uint32_t> words(static_cast<size_t>(rows * width), 0xdeadbeef);
    pack_nibble_rows(codes.data(), rows, columns, padding, words.data());
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < 8 * width; ++c) {
        const uint32_t found = words[static_cast<size_t>(r * width + c / 8)] >> (4 * (c % 8)) & 15u;
        const uint8_t expected =
            c < columns ? codes[static_cast<size_t>(r * columns + c)] : padding[static_cast<size_t>(r)];
        ASSERT_EQ(found, expected) << r << " " << c << " of " << columns;
      }
    }
    EXPECT_EQ(unpack_nibble_rows(words.data(), rows, columns), codes);
    pack_nibble_rows(codes.data(), rows, columns, {}, words.data());
    if (columns % 8 != 0) {
      EXPECT_EQ(words.back() >> 28, 0u);
    }
  }
}

}  // namespace
}  // namespace metal_marlin

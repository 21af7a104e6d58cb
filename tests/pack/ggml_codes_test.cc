#include "pack/ggml_codes.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include <cmath>

#include "core/half.h"
#include "core/random.h"

namespace metal_marlin {
namespace {

QuantizedTensor random_codes(const Grid& grid, int64_t rows, int64_t columns) {
  Random random(7);
  QuantizedTensor t;
  t.out_features = rows;
  t.in_features = columns;
  t.group_size = grid.group_size;
  t.bits = grid.bits;
  t.symmetric = grid.symmetric;
  for (int64_t i = 0; i < rows * columns; ++i)
    t.codes.push_back(static_cast<uint8_t>(random.below(static_cast<uint64_t>(grid.levels()))));
  for (int64_t i = 0; i < rows * t.groups(); ++i) {
    t.scales.push_back(f32_to_f16((static_cast<float>(random.below(2001)) - 1000) / 4096));
    t.zeros.push_back(grid.minimum ? 0 : static_cast<uint8_t>(grid.levels() / 2));
    if (grid.minimum) t.minima.push_back(f32_to_f16((static_cast<float>(random.below(2001)) - 1000) / 512));
  }
  return t;
}

class OfCodes : public testing::TestWithParam<GgmlType> {};

// What readers of blocks compute (formats/gguf_blocks.h, tested against gguf-py) is what the codes stand for.
TEST_P(OfCodes, BlocksStandForTheSameValuesAndComeBack) {
  const Grid grid = *grid_of_type(GetParam());
  EXPECT_EQ(type_of_grid(grid), GetParam());
  for (const auto& [rows, columns] : {std::pair<int64_t, int64_t>{1, 32}, {37, 96}, {5, 256}}) {
    const QuantizedTensor t = random_codes(grid, rows, columns);
    const BlockTensor blocks = pack_to_blocks(t, "w");
    EXPECT_EQ(blocks.type, GetParam());
    const Matrix expected = dequantize(t);
    const Matrix values = dequantize(blocks);
    for (int64_t i = 0; i < values.size(); ++i) ASSERT_EQ(values.data()[i], expected.data()[i]) << i;
    const QuantizedTensor back = unpack_blocks_to_codes(GetParam(), rows, columns, blocks.bytes, "w");
    EXPECT_EQ(back.codes, t.codes);
    EXPECT_EQ(back.scales, t.scales);
    EXPECT_EQ(back.zeros, t.zeros);
    EXPECT_EQ(back.minima, t.minima);
    EXPECT_EQ(back.grid(), grid);
  }
}
INSTANTIATE_TEST_SUITE_P(Types, OfCodes,
                         testing::Values(GgmlType::kQ4_0, GgmlType::kQ4_1, GgmlType::kQ5_0, GgmlType::kQ5_1,
                                         GgmlType::kQ8_0));

TEST(GgmlCodes, OtherTypesAreGridsOfBlocks) {
  for (const GgmlType type :
       {GgmlType::kQ4_K, GgmlType::kQ5_K, GgmlType::kQ6_K, GgmlType::kIQ4_NL, GgmlType::kIQ4_XS}) {
    const Grid grid = *grid_of_type(type);
    EXPECT_EQ(grid.block, type);
    EXPECT_FALSE(type_of_grid(grid));
  }
  EXPECT_FALSE(grid_of_type(GgmlType::kF16));
}

TEST(GgmlCodes, RefusesWhatNoTypeHolds) {
  const auto refused = [](QuantizedTensor t) { EXPECT_THROW(pack_to_blocks(t, "w"), ArgumentError); };
  refused(random_codes({.bits = 4, .symmetric = true, .group_size = 64}, 2, 64));
  refused(random_codes({.bits = 3, .symmetric = true, .group_size = 32}, 2, 64));
  refused(random_codes({.bits = 4, .symmetric = false, .group_size = 32}, 2, 64));
  QuantizedTensor other = random_codes({.bits = 4, .symmetric = true, .group_size = 32}, 2, 64);
  other.zeros[1] = 7;
  refused(other);
  QuantizedTensor act_order = random_codes({.bits = 4, .symmetric = true, .group_size = 32}, 2, 64);
  act_order.group_index.assign(64, 0);
  refused(act_order);
  QuantizedTensor ragged = random_codes({.bits = 4, .symmetric = true, .group_size = 32}, 1, 48);
  refused(ragged);
}

TEST(GgmlCodes, AScaleThatIsNotFiniteIsRefused) {
  BlockTensor blocks = pack_to_blocks(random_codes(*grid_of_type(GgmlType::kQ4_0), 2, 64), "w");
  blocks.bytes[1] = std::byte{0x7c};
  EXPECT_THROW(unpack_blocks_to_codes(GgmlType::kQ4_0, 2, 64, blocks.bytes, "w"), FormatError);
}

}  // namespace
}  // namespace metal_marlin

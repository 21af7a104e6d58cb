#include "quantize/rounding/rounded_rows.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "core/half.h"
#include "core/random.h"

namespace metal_marlin {
namespace {

Matrix normal_rows(int64_t rows, int64_t columns) {
  Random random(3);
  Matrix m(rows, columns);
  for (float& v : m.values()) v = static_cast<float>(random.normal()) * 0.02F;
  return m;
}

double squared_error(const Matrix& a, const Matrix& b) {
  double sum = 0;
  for (int64_t i = 0; i < a.size(); ++i) sum += std::pow(static_cast<double>(a.data()[i]) - b.data()[i], 2);
  return sum;
}

// ggml's reference quantizer (quantize_row_q8_0_ref): d = max |v| / 127.
std::vector<std::byte> ggml_q8_0(const Matrix& rows) {
  BlockFields fields(*block_form(GgmlType::kQ8_0), rows.size() / 32);
  for (size_t b = 0; b < fields.d.size(); ++b) {
    const auto values = rows.values().subspan(b * 32, 32);
    float most = 0;
    for (const float v : values) most = std::max(most, std::fabs(v));
    fields.d[b] = f32_to_f16(most / 127);
    for (size_t i = 0; i < 32; ++i)
      fields.codes[b * 32 + i] = static_cast<uint8_t>(128 + std::lround(values[i] / (most / 127)));
  }
  return pack_blocks(GgmlType::kQ8_0, fields);
}

TEST(RoundedRows, BlocksComeBackThroughFloat16) {
  const Matrix rows = normal_rows(40, 96);
  const std::vector<std::byte> before = ggml_q8_0(rows);
  Matrix halves(40, 96);
  dequantize_blocks(GgmlType::kQ8_0, before, halves.data(), halves.size());
  for (float& v : halves.values()) v = f16_to_f32(f32_to_f16(v));
  EXPECT_EQ(round_rows(halves, GgmlType::kQ8_0).bytes, before);
  for (const GgmlType type : {GgmlType::kQ4_0, GgmlType::kQ5_0, GgmlType::kQ8_0}) {
    const BlockTensor own = round_rows(rows, type);
    Matrix again = dequantize(own);
    for (float& v : again.values()) v = f16_to_f32(f32_to_f16(v));
    const Matrix values = dequantize(round_rows(again, type));
    for (int64_t i = 0; i < values.size(); ++i)
      ASSERT_EQ(f16_to_f32(f32_to_f16(values.data()[i])), again.data()[i]) << i;
  }
}

// No worse than ggml's own choice, and a row's bytes are its own affair.
TEST(RoundedRows, TheSquaredErrorIsSmall) {
  const Matrix rows = normal_rows(64, 256);
  Matrix reference(64, 256);
  dequantize_blocks(GgmlType::kQ8_0, ggml_q8_0(rows), reference.data(), reference.size());
  EXPECT_LE(squared_error(rows, dequantize(round_rows(rows, GgmlType::kQ8_0))), squared_error(rows, reference));
  for (const BlockForm& form : kBlockForms) {
    const BlockTensor all = round_rows(rows, form.type);
    Matrix one(1, 256);
    std::copy_n(rows.row(7).data(), 256, one.data());
    const BlockTensor alone = round_rows(one, form.type);
    EXPECT_TRUE(std::equal(alone.bytes.begin(), alone.bytes.end(), all.bytes.begin() + 7 * all.row_bytes()));
  }
}

TEST(RoundedRows, CodesOfAGridHaveTheRangesOfLeastError) {
  const Matrix rows = normal_rows(16, 128);
  double before = squared_error(rows, Matrix(16, 128));
  for (const int bits : {2, 3, 4, 6, 8}) {
    const Grid grid{.bits = bits, .symmetric = false, .group_size = 32, .minimum = true};
    const QuantizedTensor codes = round_rows(rows, grid);
    EXPECT_EQ(codes.grid(), grid);
    const double error = squared_error(rows, dequantize(codes));
    EXPECT_LT(error, before / 3) << bits;
    before = error;
  }
}

}  // namespace
}  // namespace metal_marlin

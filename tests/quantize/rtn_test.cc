#include "quantize/rounding/rtn.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include <fstream>
#include <iterator>

#include "quantize/reference.h"

namespace metal_marlin {
namespace {

using reference::normal_matrix;

// Reads a file of tests/data/quantize.
class Golden {
 public:
  explicit Golden(const std::string& name) {
    std::ifstream file(TEST_DATA "/quantize/" + name, std::ios::binary);
    bytes_.assign(std::istreambuf_iterator<char>(file), {});
  }
  bool done() const { return at_ == bytes_.size(); }
  template <typename T>
  std::vector<T> take(int64_t count) {
    std::vector<T> values(static_cast<size_t>(count));
    EXPECT_LE(at_ + values.size() * sizeof(T), bytes_.size());
    std::memcpy(values.data(), bytes_.data() + at_, values.size() * sizeof(T));
    at_ += values.size() * sizeof(T);
    return values;
  }

 private:
  std::vector<char> bytes_;
  size_t at_ = 0;
};

void expect_numpy(const std::string& name, bool with_bits, int expected_cases) {
  Golden golden(name);
  int cases = 0;
  while (!golden.done()) {
    const std::vector<int64_t> head = golden.take<int64_t>(with_bits ? 5 : 4);
    const int64_t out = head[0];
    const int64_t in = head[1];
    Grid grid;
    grid.group_size = head[2];
    grid.symmetric = head[3] != 0;
    if (with_bits) grid.bits = static_cast<int>(head[4]);
    const int64_t groups = (in + grid.group_size - 1) / grid.group_size;
    Matrix weight(out, in);
    const std::vector<float> values = golden.take<float>(out * in);
    std::copy(values.begin(), values.end(), weight.values().begin());
    const std::vector<uint16_t> scales = golden.take<uint16_t>(out * groups);
    const std::vector<uint8_t> zeros = golden.take<uint8_t>(out * groups);
    const std::vector<uint8_t> codes = golden.take<uint8_t>(out * in);
    const GroupRanges ranges = group_ranges(weight, grid);
    EXPECT_EQ(ranges.scales, scales);
    EXPECT_EQ(ranges.zeros, zeros);
    const QuantizedTensor q = quantize_rtn(weight, ranges, grid);
    EXPECT_EQ(q.codes, codes);
    EXPECT_EQ(q.scales, scales);
    EXPECT_NO_THROW(validate(q, "golden"));
    ++cases;
  }
  EXPECT_EQ(cases, expected_cases);
}

TEST(Rtn, EqualsNumpyBitForBit) {
  expect_numpy("rtn_golden.bin", false, 10);
}
TEST(Rtn, EqualsNumpyBitForBitAtThreeAndEightBits) {
  expect_numpy("rtn_widths_golden.bin", true, 16);
}

TEST(Rtn, AWeightOnTheGridComesBackExactly) {
  Grid grid;
  grid.group_size = 32;
  for (const bool symmetric : {true, false}) {
    grid.symmetric = symmetric;
    Matrix weight(3, 70);
    for (int64_t r = 0; r < 3; ++r) {
      for (int64_t k = 0; k < 70; ++k) weight(r, k) = static_cast<float>(symmetric ? k % 15 - 7 : k % 16 - 5) * 0.125f;
    }
    // A short last group of six weights does not reach the ends of the range; make it.
    for (int64_t r = 0; r < 3; ++r) {
      weight(r, 64) = symmetric ? 0.875f : 1.25f;
      weight(r, 65) = -0.625f;
    }
    const QuantizedTensor q = quantize_rtn(weight, group_ranges(weight, grid), grid);
    const Matrix back = dequantize(q);
    for (int64_t i = 0; i < weight.size(); ++i)
      EXPECT_EQ(back.values()[static_cast<size_t>(i)], weight.values()[static_cast<size_t>(i)]) << i;
  }
}

TEST(Rtn, OtherWidthsStayWithinHalfAStep) {
  for (const int bits : {2, 3, 4, 8}) {
    for (const bool symmetric : {true, false}) {
      const Grid grid{bits, symmetric, -1};
      const Matrix weight = normal_matrix(3, 130, 5);
      const GroupRanges ranges = group_ranges(weight, grid);
      EXPECT_EQ(ranges.groups(), 1);
      const QuantizedTensor q = quantize_rtn(weight, ranges, grid);
      EXPECT_NO_THROW(validate(q, "q"));
      const Matrix back = dequantize(q);
      for (int64_t r = 0; r < 3; ++r) {
        const float step = f16_to_f32(q.scales[static_cast<size_t>(r)]);
        // A range rounded down to f16 or by its zero leaves the end of the group up to a step outside.
        for (int64_t k = 0; k < 130; ++k)
          EXPECT_LE(std::fabs(back(r, k) - weight(r, k)), symmetric ? 0.51f * step : 1.01f * step);
      }
    }
  }
}

TEST(Rtn, RefusesWhatDoesNotFit) {
  const Grid grid{4, true, 32};
  Matrix weight = normal_matrix(2, 64, 1);
  GroupRanges ranges = group_ranges(weight, grid);
  EXPECT_THROW(quantize_rtn(normal_matrix(2, 96, 1), ranges, grid), ArgumentError);
  EXPECT_THROW(quantize_rtn(weight, ranges, Grid{4, true, 64}), ArgumentError);
  ranges.scales[1] = 0;
  EXPECT_THROW(quantize_rtn(weight, ranges, grid), ArgumentError);
  ranges = group_ranges(weight, grid);
  ranges.zeros[0] = 16;
  EXPECT_THROW(quantize_rtn(weight, ranges, grid), ArgumentError);
  ranges = group_ranges(weight, grid);
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    weight(1, 63) = bad;
    try {
      quantize_rtn(weight, ranges, grid);
      ADD_FAILURE();
    } catch (const NumericError& error) {
      EXPECT_NE(std::string(error.what()).find("weight"), std::string::npos);
      EXPECT_NE(std::string(error.what()).find("[1, 63]"), std::string::npos) << error.what();
    }
  }
}

TEST(Rtn, BytesDoNotDependOnThreads) {
  const Matrix weight = normal_matrix(200, 96, 3);
  const Grid grid{4, false, 64};
  EXPECT_TRUE(
      reference::same_bytes_for_threads([&] { return quantize_rtn(weight, group_ranges(weight, grid), grid).codes; }));
}

}  // namespace
}  // namespace metal_marlin

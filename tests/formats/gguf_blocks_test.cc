#include "formats/gguf_blocks.h"

#include <algorithm>
#include <cmath>

#include "formats/safetensors.h"
#include "formats/support.h"

namespace metal_marlin {
namespace {

struct Case {
  GgmlType type;
  const char* name;
};
void PrintTo(const Case& c, std::ostream* out) {
  *out << c.name;
}

std::string block_name(const testing::TestParamInfo<Case>& tested) {
  return tested.param.name;
}

class Blocks : public testing::TestWithParam<Case> {
 protected:
  SafetensorsFile golden_{test::data_path("gguf_blocks.safetensors")};
};

TEST_P(Blocks, EqualGgufPyBitForBit) {
  const std::string name = std::string("random.") + GetParam().name;
  const TensorView& blocks = golden_.get(name);
  const TensorView& values = golden_.get(name + ".values");
  const auto count = values.elements();
  std::vector<float> out(static_cast<size_t>(count));
  dequantize_blocks(GetParam().type, blocks.bytes, out.data(), count);
  std::vector<float> expected(out.size());
  std::memcpy(expected.data(), values.bytes.data(), values.bytes.size());
  size_t wrong = 0;
  for (size_t i = 0; i < out.size(); ++i) {
    uint32_t a = 0;
    uint32_t b = 0;
    std::memcpy(&a, &out[i], 4);
    std::memcpy(&b, &expected[i], 4);
    wrong += a != b;
    if (wrong == 1 && a != b)
      ADD_FAILURE() << GetParam().name << "[" << i << "]: " << out[i] << ", expected " << expected[i];
  }
  EXPECT_EQ(wrong, 0u);
}

// Random blocks have scales that are not finite now and then: the quick look must say of each what its values say.
TEST_P(Blocks, AreFiniteExactlyWhereTheirValuesAre) {
  const GgmlTypeInfo info = ggml_type_info(GetParam().type);
  uint64_t state = 88172645463325252u;
  const auto next = [&] {
    state ^= state << 13;
    state ^= state >> 7;
    return state ^= state << 17;
  };
  std::vector<float> values(static_cast<size_t>(info.block));
  int seen[2] = {0, 0};
  for (int round = 0; round < 20000; ++round) {
    std::vector<std::byte> block(static_cast<size_t>(info.bytes));
    for (std::byte& b : block) b = static_cast<std::byte>(next());
    // An exponent of all ones somewhere, so that both answers are common.
    if (round % 2 == 0) {
      const size_t at = next() % (block.size() / 2) * 2;
      block[at + 1] = static_cast<std::byte>(next() % 2 == 0 ? 0x7c : 0xff);
    }
    dequantize_blocks(GetParam().type, block, values.data(), info.block);
    const bool finite = std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); });
    ASSERT_EQ(blocks_are_finite(GetParam().type, block), finite) << "round " << round;
    ++seen[finite ? 1 : 0];
  }
  EXPECT_GT(seen[0], 10);
  EXPECT_GT(seen[1], 10);
}

// Codes, scales and minima say what the values of gguf-py say, bit for bit; codes keep to their bits.
TEST_P(Blocks, CodesMeanTheValues) {
  const auto form = ggml_codes(GetParam().type);
  const TensorView& blocks = golden_.get(std::string("random.") + GetParam().name);
  const TensorView& values = golden_.get(std::string("random.") + GetParam().name + ".values");
  const auto count = static_cast<size_t>(values.elements());
  std::vector<uint8_t> codes(count);
  std::vector<float> scales(count);
  std::vector<float> minima(count);
  if (!form) {
    test::check_error(test::expect<UnsupportedError>({GetParam().name}), [&] {
      decode_blocks(GetParam().type, blocks.bytes, values.elements(), codes.data(), scales.data(), minima.data());
    });
    return;
  }
  decode_blocks(GetParam().type, blocks.bytes, values.elements(), codes.data(), scales.data(),
                form->minima ? minima.data() : nullptr);
  const auto number = [&](const std::vector<float>& from, size_t i) {
    if (!form->f16_scales) return from[i];
    _Float16 half;
    std::memcpy(&half, reinterpret_cast<const char*>(from.data()) + 2 * i, 2);
    return static_cast<float>(half);
  };
  for (size_t i = 0; i < count; ++i) {
    const size_t s = i / static_cast<size_t>(form->segment);
    ASSERT_LT(codes[i], 1 << form->bits);
    float value = static_cast<float>(codes[i] - form->zero) * number(scales, s);
    if (form->minima) value += number(minima, s);
    float expected = 0;
    std::memcpy(&expected, values.bytes.data() + 4 * i, 4);
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(value)) << i;
    } else {
      ASSERT_EQ(value, expected) << i;
    }
  }
  test::check_error(test::expect<ArgumentError>({GetParam().name}), [&] {
    decode_blocks(GetParam().type, blocks.bytes, values.elements() - 1, codes.data(), scales.data(), minima.data());
  });
}

INSTANTIATE_TEST_SUITE_P(Types, Blocks,
                         testing::Values(Case{GgmlType::kF16, "F16"}, Case{GgmlType::kBF16, "BF16"},
                                         Case{GgmlType::kQ4_0, "Q4_0"}, Case{GgmlType::kQ4_1, "Q4_1"},
                                         Case{GgmlType::kQ5_0, "Q5_0"}, Case{GgmlType::kQ5_1, "Q5_1"},
                                         Case{GgmlType::kQ8_0, "Q8_0"}, Case{GgmlType::kQ2_K, "Q2_K"},
                                         Case{GgmlType::kQ3_K, "Q3_K"}, Case{GgmlType::kQ4_K, "Q4_K"},
                                         Case{GgmlType::kQ5_K, "Q5_K"}, Case{GgmlType::kQ6_K, "Q6_K"},
                                         Case{GgmlType::kIQ4_NL, "IQ4_NL"}, Case{GgmlType::kIQ4_XS, "IQ4_XS"}),
                         block_name);

// What gguf-py quantized comes back within half a step of the block's range (a whole one where the grid is skew).
TEST(BlocksRoundTrip, ErrorIsWithinTheStep) {
  const SafetensorsFile golden(test::data_path("gguf_blocks.safetensors"));
  const TensorView& weight = golden.get("weight");
  std::vector<float> w(static_cast<size_t>(weight.elements()));
  std::memcpy(w.data(), weight.bytes.data(), weight.bytes.size());
  struct Row {
    GgmlType type;
    const char* name;
    double steps;  // levels over which the range is spread
    bool skew;     // one end of a symmetric range is cut off
  };
  for (const Row& row : {Row{GgmlType::kQ4_0, "Q4_0", 16, true}, Row{GgmlType::kQ4_1, "Q4_1", 15, false},
                         Row{GgmlType::kQ5_0, "Q5_0", 32, true}, Row{GgmlType::kQ5_1, "Q5_1", 31, false},
                         Row{GgmlType::kQ8_0, "Q8_0", 254, false}}) {
    SCOPED_TRACE(row.name);
    std::vector<float> out(w.size());
    dequantize_blocks(row.type, golden.get(std::string("quantized.") + row.name).bytes, out.data(), weight.elements());
    for (size_t block = 0; block < w.size(); block += 32) {
      const auto [low, high] = std::minmax_element(w.begin() + static_cast<ptrdiff_t>(block),
                                                   w.begin() + static_cast<ptrdiff_t>(block) + 32);
      const double largest = std::max(std::fabs(*low), std::fabs(*high));
      const bool minimum = row.type == GgmlType::kQ4_1 || row.type == GgmlType::kQ5_1;
      const double range = minimum ? *high - *low : 2 * largest;
      // f16 rounding of d and m moves the grid by 2^-11 of the largest value each.
      const double bound = range / row.steps * (row.skew ? 1 : 0.5) + 3 * largest * 0x1p-11;
      for (size_t i = block; i < block + 32; ++i) EXPECT_LE(std::fabs(out[i] - w[i]), bound) << i;
    }
  }
}

TEST(BlocksTable, SizesAndNames) {
  EXPECT_EQ(ggml_type_info(GgmlType::kQ4_K).bytes, 144);
  EXPECT_EQ(ggml_type_info(GgmlType::kQ4_K).block, 256);
  EXPECT_EQ(ggml_type_info(12)->name, "Q4_K");
  EXPECT_FALSE(ggml_type_info(4).has_value());   // Q4_2, withdrawn
  EXPECT_FALSE(ggml_type_info(31).has_value());  // Q4_0_4_4, withdrawn
  EXPECT_FALSE(ggml_type_info(~0u).has_value());
}

TEST(BlocksArguments, AreChecked) {
  float out[64];
  const std::vector<std::byte> bytes(64);
  test::check_error(test::expect<ArgumentError>({"Q8_0"}), [&] { dequantize_blocks(GgmlType::kQ8_0, bytes, out, 32); });
  test::check_error(test::expect<ArgumentError>({"Q8_0"}),
                    [&] { dequantize_blocks(GgmlType::kQ8_0, std::span(bytes).first(34), out, 31); });
  test::check_error(test::expect<ArgumentError>({"F32"}), [&] { dequantize_blocks(GgmlType::kF32, bytes, out, -16); });
  test::check_error(test::expect<UnsupportedError>({"IQ2_XS"}),
                    [&] { dequantize_blocks(GgmlType::kIQ2_XS, bytes, out, 256); });
  EXPECT_NO_THROW(dequantize_blocks(GgmlType::kF32, {}, nullptr, 0));
}

}  // namespace
}  // namespace metal_marlin

#include "core/values.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include <array>
#include <cstring>

#include "core/half.h"
#include "core/random.h"
#include "core/threads.h"

namespace metal_marlin {
namespace {

QuantizedTensor tensor(int64_t out, int64_t in, int64_t group) {
  QuantizedTensor t{.out_features = out, .in_features = in, .group_size = group, .bits = 4, .symmetric = false};
  Random random(5);
  t.codes.resize(static_cast<size_t>(out * in));
  for (uint8_t& code : t.codes) code = static_cast<uint8_t>(random.below(16));
  t.scales.resize(static_cast<size_t>(out * t.groups()));
  for (uint16_t& scale : t.scales) scale = f32_to_f16(static_cast<float>(random.normal()));
  t.zeros.resize(t.scales.size());
  for (uint8_t& zero : t.zeros) zero = static_cast<uint8_t>(random.below(16));
  return t;
}

TEST(QuantizedTensor, DequantizeFollowsTheFormula) {
  for (const auto [out, in, group] : {std::array<int64_t, 3>{1, 1, 1}, {3, 100, 32}, {130, 64, 64}, {65, 70, 8}}) {
    const QuantizedTensor t = tensor(out, in, group);
    const Matrix w = dequantize(t);
    for (int64_t n = 0; n < out; ++n) {
      for (int64_t k = 0; k < in; ++k) {
        const auto g = static_cast<size_t>(n * t.groups() + k / group);
        const int difference = t.codes[static_cast<size_t>(n * in + k)] - t.zeros[g];
        ASSERT_EQ(w(n, k), static_cast<float>(difference) * f16_to_f32(t.scales[g]));
      }
    }
    std::vector<float> rows(static_cast<size_t>(in));
    dequantize_rows(t, out - 1, 1, rows.data());
    EXPECT_EQ(std::memcmp(rows.data(), w.data() + (out - 1) * in, rows.size() * sizeof(float)), 0);
  }
}

TEST(QuantizedTensor, GroupsCountAShortLastOne) {
  EXPECT_EQ(tensor(1, 100, 32).groups(), 4);
  EXPECT_EQ(tensor(1, 96, 32).groups(), 3);
  EXPECT_EQ(QuantizedTensor{}.groups(), 0);
}

TEST(QuantizedTensor, ValidateNamesWhatIsWrong) {
  EXPECT_NO_THROW(validate(tensor(3, 100, 32), "w"));
  const auto refused = [](auto change, const std::string& text) {
    QuantizedTensor t = tensor(3, 100, 32);
    change(t);
    try {
      validate(t, "layer.w");
      FAIL() << text;
    } catch (const FormatError& error) {
      EXPECT_NE(std::string(error.what()).find("layer.w"), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what();
    }
  };
  refused([](auto& t) { t.out_features = 0; }, "[0, 100]");
  refused([](auto& t) { t.group_size = 0; }, "group 0");
  refused([](auto& t) { t.bits = 9; }, "9 bits");
  refused([](auto& t) { t.codes.pop_back(); }, "299 codes");
  refused([](auto& t) { t.scales.pop_back(); }, "11 scales");
  refused([](auto& t) { t.zeros.push_back(0); }, "13 zeros");
  refused([](auto& t) { t.codes[9] = 16; }, "code 16");
  refused([](auto& t) { t.zeros[9] = 17; }, "zero 17");
  refused([](auto& t) { t.scales[9] = 0x7e00; }, "scale 9");
}

TEST(Values, NamesAndGrid) {
  EXPECT_STREQ(input_name(LinearInput::kQkv), "qkv");
  EXPECT_STREQ(input_name(LinearInput::kO), "o");
  EXPECT_STREQ(input_name(LinearInput::kGateUp), "gate_up");
  EXPECT_STREQ(input_name(LinearInput::kDown), "down");
  EXPECT_EQ((Grid{.bits = 3}.levels()), 8);
  EXPECT_EQ((Grid{.group_size = -1}.group_of(576)), 576);
  EXPECT_EQ((Grid{.group_size = 64}.group_of(576)), 64);
}

}  // namespace
}  // namespace metal_marlin

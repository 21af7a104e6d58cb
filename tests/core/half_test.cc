#include "core/half.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/random.h"

namespace metal_marlin {
namespace {

// The value of a format with `bits` of mantissa and this bias, by definition.
double value_of(uint32_t code, int mantissa_bits, int exponent_bits) {
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const auto mantissa = static_cast<double>(code & ((1u << mantissa_bits) - 1));
  const int exponent = static_cast<int>(code >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const double sign = (code >> (mantissa_bits + exponent_bits)) != 0 ? -1 : 1;
  if (exponent == (1 << exponent_bits) - 1) return mantissa == 0 ? sign * HUGE_VAL : std::nan("");
  const double scale = std::ldexp(1.0, (exponent == 0 ? 1 : exponent) - bias - mantissa_bits);
  return sign * (mantissa + (exponent == 0 ? 0 : std::ldexp(1.0, mantissa_bits))) * scale;
}

TEST(F16, EveryCodeHasItsValueAndComesBack) {
  for (uint32_t h = 0; h < 65536; ++h) {
    const double expected = value_of(h, 10, 5);
    const float f = f16_to_f32(static_cast<uint16_t>(h));
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(f)) << h;
      ASSERT_TRUE(std::isnan(f16_to_f32(f32_to_f16(f)))) << h;
      continue;
    }
    ASSERT_EQ(f, expected) << h;
    ASSERT_EQ(std::signbit(f), h >= 0x8000) << h;
    ASSERT_EQ(f32_to_f16(f), h);
  }
}

TEST(Bf16, EveryCodeHasItsValueAndComesBack) {
  for (uint32_t h = 0; h < 65536; ++h) {
    const double expected = value_of(h, 7, 8);
    const float f = bf16_to_f32(static_cast<uint16_t>(h));
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(f)) << h;
      ASSERT_TRUE(std::isnan(bf16_to_f32(f32_to_bf16(f)))) << h;
      continue;
    }
    ASSERT_EQ(f, expected) << h;
    ASSERT_EQ(f32_to_bf16(f), h);
  }
}

// Between neighbours: the middle goes to the even code, a hair to either side goes to that side.
template <typename ToHalf>
void check_between(uint16_t low, double a, double b, ToHalf to_half) {
  const auto high = static_cast<uint16_t>(low + 1);
  const auto middle = static_cast<float>((a + b) / 2);
  ASSERT_EQ(static_cast<double>(middle), (a + b) / 2);
  ASSERT_EQ(to_half(middle), (low & 1) == 0 ? low : high) << low;
  ASSERT_EQ(to_half(std::nextafter(middle, 0.0f)), low) << low;
  ASSERT_EQ(to_half(std::nextafter(middle, std::numeric_limits<float>::infinity())), high) << low;
  ASSERT_EQ(to_half(-middle), static_cast<uint16_t>(0x8000 | ((low & 1) == 0 ? low : high))) << low;
}

TEST(F16, RoundsToNearestEven) {
  for (uint16_t h = 0; h < 0x7bff; ++h) check_between(h, value_of(h, 10, 5), value_of(h + 1u, 10, 5), f32_to_f16);
}

TEST(Bf16, RoundsToNearestEven) {
  for (uint16_t h = 0; h < 0x7f7f; ++h) check_between(h, value_of(h, 7, 8), value_of(h + 1u, 7, 8), f32_to_bf16);
}

TEST(F16, LargeValuesBecomeInfinity) {
  EXPECT_EQ(f32_to_f16(65504.0f), 0x7bff);
  EXPECT_EQ(f32_to_f16(std::nextafter(65520.0f, 0.0f)), 0x7bff);
  EXPECT_EQ(f32_to_f16(65520.0f), 0x7c00);
  EXPECT_EQ(f32_to_f16(-std::numeric_limits<float>::max()), 0xfc00);
  EXPECT_EQ(f32_to_f16(std::numeric_limits<float>::infinity()), 0x7c00);
  EXPECT_TRUE(f16_fits(65519.0f));
  EXPECT_FALSE(f16_fits(65520.0f));
  EXPECT_FALSE(f16_fits(-65520.0f));
  EXPECT_FALSE(f16_fits(std::numeric_limits<float>::infinity()));
  EXPECT_FALSE(f16_fits(std::nanf("")));
}

TEST(F16, TinyValuesKeepTheirSign) {
  EXPECT_EQ(f32_to_f16(0x1p-25f), 0x0000);  // half of the smallest: to even
  EXPECT_EQ(f32_to_f16(-0x1p-25f), 0x8000);
  EXPECT_EQ(f32_to_f16(0x1.8p-25f), 0x0001);
  EXPECT_EQ(f32_to_f16(std::numeric_limits<float>::denorm_min()), 0x0000);
}

TEST(F16, RoundToF16IsIdempotent) {
  Random random(1);
  for (int i = 0; i < 10000; ++i) {
    const float f = static_cast<float>(random.normal());
    const float r = round_to_f16(f);
    EXPECT_EQ(round_to_f16(r), r);
    EXPECT_LE(std::fabs(r - f), std::fabs(f) * 0x1p-11f);
  }
}

}  // namespace
}  // namespace metal_marlin

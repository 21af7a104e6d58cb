#include "write/float_conversion.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "core/half.h"

namespace metal_marlin {
namespace {

TensorView view_of(const std::vector<float>& values) {
  return {"t", DType::kF32, {static_cast<int64_t>(values.size())}, std::as_bytes(std::span(values))};
}

TEST(FloatConversion, KeepsEveryFloat16) {
  std::vector<uint16_t> halves;
  std::vector<float> floats;
  for (uint32_t h = 0; h < 0x10000; ++h) {
    if ((h & 0x7fffu) > 0x7c00u) continue;  // NaN
    halves.push_back(static_cast<uint16_t>(h));
    floats.push_back(f16_to_f32(static_cast<uint16_t>(h)));
  }
  const TensorView half_view{"t", DType::kF16, {static_cast<int64_t>(halves.size())}, std::as_bytes(std::span(halves))};
  for (const TensorView& view : {half_view, view_of(floats)}) {
    std::vector<uint16_t> out(halves.size());
    F16Conversion result;
    convert_to_f16(view, out.data(), result);
    EXPECT_EQ(out, halves);
    EXPECT_EQ(result.clamped, 0u);
    EXPECT_EQ(result.flushed, 0u);
    EXPECT_EQ(result.largest, 65504.0f);
  }
}

TEST(FloatConversion, RoundsToNearestEven) {
  const std::vector<float> values = {1.0f + 0x1p-11f, 1.0f + 3 * 0x1p-11f, 1.0f + 0x1.002p-11f, 0x1.8p-24f};
  std::vector<uint16_t> out(values.size());
  F16Conversion result;
  convert_to_f16(view_of(values), out.data(), result);
  EXPECT_EQ(out, (std::vector<uint16_t>{0x3c00, 0x3c02, 0x3c01, 0x0002}));
}

TEST(FloatConversion, CountsWhatDoesNotFit) {
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<float> values = {65519.99f,  65520.0f,  -1e6f,  inf,  -inf, 0x1p-25f,
                                     0x1.2p-25f, -0x1p-26f, 1e-40f, 0.0f, -0.0f};
  std::vector<uint16_t> out(values.size());
  F16Conversion result;
  convert_to_f16(view_of(values), out.data(), result);
  EXPECT_EQ(out, (std::vector<uint16_t>{0x7bff, 0x7bff, 0xfbff, 0x7c00, 0xfc00, 0x0000, 0x0001, 0x8000, 0x0000, 0x0000,
                                        0x8000}));
  EXPECT_EQ(result.clamped, 2u);
  EXPECT_EQ(result.flushed, 3u);
  EXPECT_EQ(result.largest, 1e6f);
}

TEST(FloatConversion, Bfloat16BeyondFloat16IsClamped) {
  const std::vector<uint16_t> bits = {f32_to_bf16(1.5f), f32_to_bf16(3e38f)};
  std::vector<uint16_t> out(2);
  F16Conversion result;
  convert_to_f16({"t", DType::kBF16, {2}, std::as_bytes(std::span(bits))}, out.data(), result);
  EXPECT_EQ(out, (std::vector<uint16_t>{0x3e00, 0x7bff}));
  EXPECT_EQ(result.clamped, 1u);
}

TEST(FloatConversion, RefusesNanAndIntegers) {
  std::vector<uint16_t> out(2);
  F16Conversion result;
  EXPECT_THROW(convert_to_f16(view_of({1.0f, std::nanf("")}), out.data(), result), NumericError);
  const std::vector<int32_t> integers = {1, 2};
  EXPECT_THROW(convert_to_f16({"t", DType::kI32, {2}, std::as_bytes(std::span(integers))}, out.data(), result),
               UnsupportedError);
}

}  // namespace
}  // namespace metal_marlin

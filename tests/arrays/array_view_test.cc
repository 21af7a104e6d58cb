#include <gtest/gtest.h>
#include <metal_marlin/array.h>
#include <metal_marlin/awq.h>
#include <metal_marlin/error.h>
#include <metal_marlin/gptq.h>
#include <metal_marlin/mr_gptq.h>

#include <array>
#include <cmath>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "arrays/random_array.h"

namespace metal_marlin {
namespace {

template <typename Range>
constexpr bool kViewed = std::is_constructible_v<ArrayView, Range, std::vector<int64_t>>;

TEST(ArrayView, TakesItsTypeFromTheElements) {
  const std::vector<float> weights(6);
  std::vector<double> exact(6);
  const std::array<uint32_t, 6> words{};
  std::vector<int8_t> codes(6);
  std::vector<uint8_t> bytes(6);
  bool flags[6] = {};
  EXPECT_EQ(ArrayView(weights, {2, 3}).type, ElementType::kF32);
  EXPECT_EQ(ArrayView(exact, {6}).type, ElementType::kF64);
  EXPECT_EQ(ArrayView(words, {3, 2}).type, ElementType::kU32);
  EXPECT_EQ(ArrayView(codes, {1, 2, 3}).type, ElementType::kI8);
  EXPECT_EQ(ArrayView(bytes, {6, 1}).type, ElementType::kU8);
  EXPECT_EQ(ArrayView(flags, {6}).type, ElementType::kBool);
  const ArrayView view(std::span<const float>(weights), {2, 3});
  EXPECT_EQ(view.data, weights.data());
  EXPECT_EQ(view.shape, (std::vector<int64_t>{2, 3}));
  EXPECT_TRUE(view.strides.empty());
}

TEST(ArrayView, IsMadeOfLastingMemoryAlone) {
  static_assert(kViewed<std::vector<float>&> && kViewed<std::span<const double>>);
  static_assert(!kViewed<std::vector<float>>);         // a temporary
  static_assert(!kViewed<std::vector<long double>&>);  // no such elements
  static_assert(!kViewed<std::vector<bool>&>);         // bits
  static_assert(!kViewed<std::vector<std::string>&>);
}

TEST(ArrayView, NeedsAShapeOfAsManyElements) {
  const std::vector<float> weights(6);
  for (const std::vector<int64_t>& shape :
       {std::vector<int64_t>{2, 2}, {7}, {}, {-2, -3}, {0}, {int64_t{1} << 62, int64_t{1} << 62}}) {
    EXPECT_THROW(ArrayView(weights, shape), ArgumentError);
  }
  try {
    ArrayView(weights, {2, 2});
  } catch (const ArgumentError& error) {
    EXPECT_STREQ(error.what(), "array: expected a shape of 6 elements as there are values, found [2, 2]");
  }
  const std::vector<float> none;
  EXPECT_EQ(ArrayView(none, {0, 3}).shape.size(), 2U);
}

TEST(ArrayView, AResultGoesBackIn) {
  std::vector<float> weights(64 * 4);
  std::vector<float> inputs(32 * 64);
  for (size_t i = 0; i < weights.size(); ++i) weights[i] = static_cast<float>(i % 13) - 6;
  for (size_t i = 0; i < inputs.size(); ++i) inputs[i] = static_cast<float>(i % 7) - 3;
  const GPTQPacked r = gptq_quantize(ArrayView(weights, {64, 4}), ArrayView(inputs, {32, 64}), 32);
  const Array back = gptq_dequantize(r.Q, r.scales, r.zeros, r.meta, ElementType::kF32);
  EXPECT_EQ(back.shape, (std::vector<int64_t>{64, 4}));
  EXPECT_EQ(r.dequantize(ElementType::kF32).bytes, back.bytes);
  const std::optional<ArrayView> optional = back;
  EXPECT_EQ(optional->data, back.bytes.data());
}

TEST(ArrayView, EachResultGivesItsWeights) {
  const Array w = normal({32, 64}, 0.1, 1);  // [N, K]
  const Array x = normal({256, 64}, 1, 2);
  const Array h = compute_hessian(x);
  const Array turned = normal({64, 32}, 0.1, 3);  // [K, N]
  const auto error = [](const Array& values, const Array& original) {
    double e = 0;
    double size = 0;
    for (int64_t i = 0; i < original.elements(); ++i) {
      e += std::pow(values.as<float>()[i] - original.as<float>()[i], 2);
      size += std::pow(original.as<float>()[i], 2);
    }
    return std::sqrt(e / size);
  };
  EXPECT_LT(error(awq_quantize(turned, x, 32).dequantize(ElementType::kF32), turned), 0.15);
  EXPECT_LT(error(gptq_quantize(turned, x, 32).dequantize(ElementType::kF32), turned), 0.15);
  EXPECT_LT(error(FP4GPTQQuantizer(32).quantize_weight(w, h).dequantize(ElementType::kF32), w), 0.2);
  EXPECT_LT(error(MRGPTQQuantizer().quantize_layer(w, h).dequantize(), w), 0.2);
}

}  // namespace
}  // namespace metal_marlin

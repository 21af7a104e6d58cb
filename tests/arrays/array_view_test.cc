#include <gtest/gtest.h>
#include <metal_marlin/array.h>
#include <metal_marlin/error.h>
#include <metal_marlin/gptq.h>

#include <array>
#include <optional>
#include <span>
#include <type_traits>
#include <vector>

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
  const std::optional<ArrayView> optional = back;
  EXPECT_EQ(optional->data, back.bytes.data());
}

}  // namespace
}  // namespace metal_marlin

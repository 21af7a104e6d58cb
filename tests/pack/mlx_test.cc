#include "pack/mlx.h"

#include <limits>

#include "core/half.h"
#include "pack/golden.h"

namespace metal_marlin {
namespace {

using test::expect_error;
using test::Golden;

class MlxGolden : public testing::TestWithParam<int64_t> {
 protected:
  Golden golden_{"mlx_g" + std::to_string(GetParam()) + ".safetensors"};
  QuantizedTensor unpack() const {
    return unpack_mlx(golden_.get("ref.weight"), golden_.get("ref.scales"), golden_.get("ref.biases"), GetParam(), 4,
                      "p");
  }
};
INSTANTIATE_TEST_SUITE_P(Groups, MlxGolden, testing::Values(32, 64, 128));

TEST_P(MlxGolden, BytesInBothDirections) {
  const QuantizedTensor t = unpack();
  EXPECT_EQ(t.codes, golden_.values<uint8_t>("q.codes"));
  EXPECT_FALSE(t.minima.empty());  // MLX rounds scale and bias apart
  const PackedTensor packed = pack_mlx(t, "p");
  ASSERT_EQ(packed.parts.size(), 3u);
  for (const OwnedTensor& part : packed.parts) test::expect_same(part, golden_.get("ref." + part.name));
}

TEST_P(MlxGolden, DequantizesAsMlxDoes) {
  const auto expected = golden_.values<uint16_t>("ref.dequant");
  const QuantizedTensor t = unpack();
  const Matrix w = dequantize(t);
  for (int64_t n = 0; n < w.rows(); ++n) {
    for (int64_t k = 0; k < w.cols(); ++k) {
      // MLX rounds the product, then the sum, to float16.
      const auto at = static_cast<size_t>(n * t.groups() + k / t.group_size);
      const float product = round_to_f16(t.codes[static_cast<size_t>(n * w.cols() + k)] * t.scale(at));
      ASSERT_EQ(f32_to_f16(product + t.minimum(at)), expected[static_cast<size_t>(n * w.cols() + k)]) << n << "," << k;
    }
  }
}

TEST(Mlx, ZerosComeBackWhereTheirBiasIsExact) {
  QuantizedTensor t = test::random_tensor(8, 64, 32, true, 1);
  const auto back = [](const PackedTensor& packed) {
    return unpack_mlx(packed.find("weight")->view(), packed.find("scales")->view(), packed.find("biases")->view(), 32,
                      4, "p");
  };
  test::expect_equal(back(pack_mlx(t, "p")), t);
  t.symmetric = false;  // with biases that are exact
  t.zeros[0] = 3;
  t.scales[0] = f32_to_f16(0.25F);
  const PackedTensor packed = pack_mlx(t, "p");
  uint16_t bias = 0;
  std::memcpy(&bias, packed.find("biases")->bytes.data(), sizeof bias);
  EXPECT_EQ(f16_to_f32(bias), -0.75F);
  test::expect_equal(back(packed), t);
}

TEST(Mlx, RefusesABiasThatFloat16DoesNotHold) {
  QuantizedTensor t = test::random_tensor(8, 64, 32, true, 1);
  t.symmetric = false;
  t.zeros[5] = 7;
  t.scales[5] = 0x2e67;  // 11 bits of mantissa: seven times it has more
  expect_error<ArgumentError>([&] { pack_mlx(t, "p"); }, {"p", "output channel 2, group 1", "-7 *", "float16"});
  t = test::random_tensor(8, 96, 48, true, 1);
  expect_error<ArgumentError>([&] { pack_mlx(t, "p"); }, {"p", "32, 64 or 128", "48"});
}

TEST(Mlx, ScalesOf32BitsAreReadWhereSixteenHoldThem) {
  const QuantizedTensor t = test::random_tensor(4, 64, 32, true, 2);
  const PackedTensor packed = pack_mlx(t, "p");
  std::vector<float> scales(t.scales.size());
  std::vector<float> biases(t.scales.size());
  for (size_t i = 0; i < scales.size(); ++i) {
    scales[i] = t.scale(i);
    biases[i] = -8 * t.scale(i);
  }
  const auto read = [&] {
    const TensorView s{"scales", DType::kF32, {4, 2}, std::as_bytes(std::span(scales))};
    const TensorView b{"biases", DType::kF32, {4, 2}, std::as_bytes(std::span(biases))};
    return unpack_mlx(packed.find("weight")->view(), s, b, 32, 4, "p");
  };
  test::expect_equal(read(), t);
  scales[3] = 0.1F;
  expect_error<UnsupportedError>(read, {"p", "32 bits"});
  scales[3] = std::numeric_limits<float>::infinity();
  expect_error<FormatError>(read, {"p", "scales", "output 1, group 1"});
}

}  // namespace
}  // namespace metal_marlin

#include "pack/awq_gemv.h"

#include <algorithm>
#include <tuple>

#include "pack/golden.h"

namespace metal_marlin {
namespace {

using test::expect_error;
using test::Golden;

class AwqGemvGolden : public testing::TestWithParam<std::tuple<const char*, int>> {
 protected:
  bool symmetric() const { return std::string(std::get<0>(GetParam())) == "sym"; }
  int64_t group() const { return std::get<1>(GetParam()); }
  // From the logical codes of the file.
  QuantizedTensor logical() const {
    const auto codes = golden_.values<uint8_t>("q.codes");            // [in, out]
    const auto zeros = golden_.values<uint8_t>("q.zeros");            // [groups, out]
    const auto scales = golden_.values<uint16_t>("ref.gemm.scales");  // [groups, out]
    QuantizedTensor t = test::random_tensor(32, 256, group(), symmetric(), 1);
    for (int64_t n = 0; n < 32; ++n) {
      for (int64_t k = 0; k < 256; ++k)
        t.codes[static_cast<size_t>(n * 256 + k)] = codes[static_cast<size_t>(k * 32 + n)];
      for (int64_t j = 0; j < t.groups(); ++j) {
        t.zeros[static_cast<size_t>(n * t.groups() + j)] = zeros[static_cast<size_t>(j * 32 + n)];
        t.scales[static_cast<size_t>(n * t.groups() + j)] = scales[static_cast<size_t>(j * 32 + n)];
      }
    }
    return t;
  }
  Golden golden_{std::string("awq_") + std::get<0>(GetParam()) + "_g" + std::to_string(group()) + ".safetensors"};
};
INSTANTIATE_TEST_SUITE_P(Files, AwqGemvGolden,
                         testing::Combine(testing::Values("sym", "asym"), testing::Values(64, 128)));

TEST_P(AwqGemvGolden, ReadsTheBytesOfAutoAwq) {
  const auto part = [&](const char* name) { return golden_.get(std::string("ref.gemv.") + name); };
  test::expect_equal(unpack_awq_gemv(part("qweight"), part("qzeros"), part("scales"), group(), "p"), logical());
}

TEST_P(AwqGemvGolden, ReadsTheHalfwordsOfAutoAwq) {
  const auto part = [&](const char* name) { return golden_.get(std::string("ref.gemv_fast.") + name); };
  const QuantizedTensor t = unpack_awq_gemv_fast(part("qweight"), part("scaled_zeros"), part("scales"), group(), "p");
  test::expect_equal(t, logical());
  EXPECT_TRUE(t.minima.empty());
  const QuantizedTensor without =
      unpack_awq_gemv_fast(part("qweight"), part("scaled_zeros"), part("scales"), group(), "p", Codes::kSkip);
  EXPECT_TRUE(without.codes.empty());
  EXPECT_EQ(without.zeros, t.zeros);
}

// The kernels add the rounded product of zero and scale: at most half a unit in the last place of it apart.
TEST_P(AwqGemvGolden, ZerosStandForTheStoredProducts) {
  const auto part = [&](const char* name) { return golden_.get(std::string("ref.gemv_fast.") + name); };
  const QuantizedTensor t = unpack_awq_gemv_fast(part("qweight"), part("scaled_zeros"), part("scales"), group(), "p");
  const auto stored = golden_.values<uint16_t>("ref.gemv_fast.scaled_zeros");  // [padded groups, out]
  for (int64_t n = 0; n < 32; ++n) {
    for (int64_t j = 0; j < t.groups(); ++j) {
      const auto at = static_cast<size_t>(n * t.groups() + j);
      const double product = -double{t.scale(at)} * t.zeros[at];
      EXPECT_NEAR(f16_to_f32(stored[static_cast<size_t>(j * 32 + n)]), product, std::abs(product) / 2048);
    }
  }
}

TEST(AwqGemv, RefusesOtherGroupsAndShapes) {
  const Golden golden("awq_asym_g64.safetensors");
  const TensorView codes = golden.get("ref.gemv.qweight");
  const TensorView zeros = golden.get("ref.gemv.qzeros");
  const TensorView scales = golden.get("ref.gemv.scales");
  expect_error<FormatError>([&] { unpack_awq_gemv(codes, zeros, scales, 16, "a.b"); }, {"a.b", "32, 64", "16"});
  expect_error<FormatError>([&] { unpack_awq_gemv(codes, zeros, scales, 0, "a.b"); }, {"a.b", "group size 0"});
  expect_error<FormatError>([&] { unpack_awq_gemv(codes, zeros, scales, 96, "a.b"); }, {"a.b", "96", "256"});
  expect_error<FormatError>([&] { unpack_awq_gemv(codes, scales, scales, 64, "a.b"); }, {"a.b", "qzeros", "[32, 2]"});
  expect_error<FormatError>([&] { unpack_awq_gemv(zeros, zeros, scales, 64, "a.b"); }, {"a.b", "64", "16"});
  const TensorView halves = golden.get("ref.gemv_fast.qweight");
  const TensorView products = golden.get("ref.gemv_fast.scaled_zeros");
  expect_error<FormatError>([&] { unpack_awq_gemv_fast(codes, products, products, 64, "a.b"); },
                            {"a.b", "qweight", "multiple of 64", "I32"});
  expect_error<FormatError>([&] { unpack_awq_gemv_fast(halves, products, scales, 64, "a.b"); },
                            {"a.b", "scales", "[16, 32]"});
}

}  // namespace
}  // namespace metal_marlin

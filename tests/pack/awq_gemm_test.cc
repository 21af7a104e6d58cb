#include "pack/awq_gemm.h"

#include <algorithm>
#include <limits>
#include <tuple>

#include "core/threads.h"
#include "pack/golden.h"

namespace metal_marlin {
namespace {

using test::expect_error;
using test::Golden;
using test::Shape;

QuantizedTensor unpack(const PackedTensor& packed, int64_t group) {
  return unpack_awq_gemm(packed.find("qweight")->view(), packed.find("qzeros")->view(), packed.find("scales")->view(),
                         group, "p");
}

class AwqGolden : public testing::TestWithParam<std::tuple<const char*, int>> {
 protected:
  bool symmetric() const { return std::string(std::get<0>(GetParam())) == "sym"; }
  int64_t group() const { return std::get<1>(GetParam()); }
  Golden golden_{std::string("awq_") + std::get<0>(GetParam()) + "_g" + std::to_string(group()) + ".safetensors"};
};
INSTANTIATE_TEST_SUITE_P(Files, AwqGolden, testing::Combine(testing::Values("sym", "asym"), testing::Values(64, 128)));

// From the logical codes of the file, not through our own unpacking.
TEST_P(AwqGolden, PacksToTheBytesOfAutoAwq) {
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
  const PackedTensor packed = pack_awq_gemm(t, "p");
  ASSERT_EQ(packed.parts.size(), 3u);
  for (const OwnedTensor& part : packed.parts) test::expect_same(part, golden_.get("ref.gemm." + part.name));
  test::expect_equal(unpack_awq_gemm(golden_.get("ref.gemm.qweight"), golden_.get("ref.gemm.qzeros"),
                                     golden_.get("ref.gemm.scales"), group(), "p"),
                     t);
}

// AutoAWQ multiplies in f16: our f32 product rounded once is the same number.
TEST_P(AwqGolden, DequantizesToTheValuesOfAutoAwq) {
  const QuantizedTensor t = unpack_awq_gemm(golden_.get("ref.gemm.qweight"), golden_.get("ref.gemm.qzeros"),
                                            golden_.get("ref.gemm.scales"), group(), "p");
  const auto expected = golden_.values<uint16_t>("ref.gemm.dequant");  // [in, out]
  const Matrix w = dequantize(t);
  for (int64_t n = 0; n < 32; ++n) {
    for (int64_t k = 0; k < 256; ++k) {
      ASSERT_EQ(round_to_f16(w(n, k)), f16_to_f32(expected[static_cast<size_t>(k * 32 + n)])) << n << "," << k;
    }
  }
}

class AwqShapes : public testing::TestWithParam<Shape> {};
INSTANTIATE_TEST_SUITE_P(Hard, AwqShapes,
                         testing::Values(Shape{8, 1, 1}, Shape{8, 15, 5}, Shape{24, 17, 17}, Shape{128, 64, 64},
                                         Shape{136, 66, 33}, Shape{264, 200, 40}, Shape{8, 1024, 128},
                                         Shape{1032, 79, 79}, Shape{576, 192, 32}));

TEST_P(AwqShapes, RoundTripAndIndexFormula) {
  constexpr int kColumn[8] = {0, 2, 4, 6, 1, 3, 5, 7};
  const auto [out, in, group] = GetParam();
  for (const bool symmetric : {true, false}) {
    const QuantizedTensor t = test::random_tensor(out, in, group, symmetric, 11);
    const PackedTensor packed = pack_awq_gemm(t, "p");
    test::expect_equal(unpack(packed, group), t);
    if (group == in) test::expect_equal(unpack(packed, -1), t);
    const auto* words = reinterpret_cast<const uint32_t*>(packed.find("qweight")->bytes.data());
    const auto* zeros = reinterpret_cast<const uint32_t*>(packed.find("qzeros")->bytes.data());
    for (int64_t c = 0; c < out / 8; ++c) {
      for (int i = 0; i < 8; ++i) {
        const int64_t n = 8 * c + kColumn[i];
        for (int64_t k = 0; k < in; ++k) {
          ASSERT_EQ(words[k * (out / 8) + c] >> (4 * i) & 15, t.codes[static_cast<size_t>(n * in + k)])
              << n << "," << k;
        }
        for (int64_t j = 0; j < t.groups(); ++j) {
          ASSERT_EQ(zeros[j * (out / 8) + c] >> (4 * i) & 15, t.zeros[static_cast<size_t>(n * t.groups() + j)]);
        }
      }
    }
  }
}

TEST(Awq, SymmetricZerosAreAllEights) {
  const PackedTensor packed = pack_awq_gemm(test::random_tensor(64, 64, 32, true, 1), "p");
  const auto bytes = packed.find("qzeros")->view().bytes;
  EXPECT_TRUE(std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == std::byte{0x88}; }));
}

TEST(Awq, DoesNotDependOnThreads) {
  test::expect_independent_of_threads(test::random_tensor(520, 100, 50, false, 3),
                                      [](const auto& t) { return pack_awq_gemm(t, "p"); });
}

TEST(AwqPack, RefusesWhatTheLayoutCannotHold) {
  const auto refused = [](QuantizedTensor t, const std::vector<std::string>& texts) {
    expect_error<ArgumentError>([&] { pack_awq_gemm(t, "model.q"); }, texts);
  };
  refused(test::random_tensor(12, 64, 32, true, 1), {"model.q", "12", "multiple of 8"});
  QuantizedTensor t = test::random_tensor(8, 64, 32, true, 1);
  t.group_size = 48;
  refused(t, {"model.q", "group 48"});
  // Anywhere: in a whole step and in the rest.
  for (const size_t at : {size_t{0}, size_t{5 * 67 + 13}, size_t{7 * 67 + 66}}) {
    t = test::random_tensor(8, 67, 67, true, 1);
    t.codes[at] = 0x40;
    refused(t, {"model.q", "code is above 15"});
  }
}

TEST(AwqUnpack, RefusesDamagedParts) {
  const PackedTensor packed = pack_awq_gemm(test::random_tensor(16, 64, 32, false, 1), "p");
  const TensorView weight = packed.parts[0].view();
  const TensorView zeros = packed.parts[1].view();
  const TensorView scales = packed.parts[2].view();
  const auto refused = [&](TensorView w, TensorView z, TensorView s, int64_t group,
                           const std::vector<std::string>& texts) {
    expect_error<FormatError>([&] { unpack_awq_gemm(w, z, s, group, "model.q"); }, texts);
  };
  const auto changed = [](TensorView view, auto change) {
    change(view);
    return view;
  };
  EXPECT_NO_THROW(unpack_awq_gemm(changed(weight, [](auto& v) { v.dtype = DType::kU32; }), zeros, scales, 32, "p"));
  refused(changed(weight, [](auto& v) { v.dtype = DType::kI64; }), zeros, scales, 32,
          {"model.q", "qweight", "I32", "I64"});
  refused(changed(weight, [](auto& v) { v.shape = {128}; }), zeros, scales, 32, {"model.q", "[128]"});
  refused(changed(weight, [](auto& v) { v.shape = {64, 3}; }), zeros, scales, 32, {"model.q", "[64, 3]"});
  refused(changed(weight, [](auto& v) { v.shape = {-64, -2}; }), zeros, scales, 32, {"model.q", "[-64, -2]"});
  refused(weight, changed(zeros, [](auto& v) { v.shape = {2, 16}; }), scales, 32,
          {"model.q", "qzeros", "[2, 2]", "[2, 16]"});
  refused(weight, changed(zeros, [](auto& v) { v.bytes = v.bytes.first(15); }), scales, 32,
          {"model.q", "qzeros", "15 bytes"});
  refused(weight, zeros, changed(scales, [](auto& v) { v.dtype = DType::kF32; }), 32, {"model.q", "scales", "F32"});
  refused(weight, zeros, scales, 64, {"model.q", "qzeros", "[1, 2]"});
  refused(weight, zeros, scales, 5, {"model.q", "5"});
  PackedTensor infinite = pack_awq_gemm(test::random_tensor(16, 64, 32, false, 1), "p");
  const uint16_t infinity = 0xfc00;
  std::memcpy(infinite.parts[2].bytes.data() + 2 * 17, &infinity, 2);
  refused(weight, zeros, infinite.parts[2].view(), 32, {"model.q", "scales", "[1, 1]"});
}

}  // namespace
}  // namespace metal_marlin

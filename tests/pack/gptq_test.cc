#include "pack/gptq.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "core/threads.h"
#include "pack/golden.h"

namespace metal_marlin {
namespace {

using test::expect_error;
using test::Golden;
using test::Shape;

QuantizedTensor unpack(const PackedTensor& packed, int64_t group, GptqVersion version) {
  const TensorView g_idx = packed.find("g_idx")->view();
  return unpack_gptq(packed.find("qweight")->view(), packed.find("qzeros")->view(), packed.find("scales")->view(),
                     &g_idx, group, version, "p");
}

class GptqGolden : public testing::TestWithParam<const char*> {
 protected:
  int64_t group() const { return std::string(GetParam()).find("128") != std::string::npos ? 128 : 64; }
  bool act_order() const { return std::string(GetParam()).find("desc_act") != std::string::npos; }
  // From the logical codes of the file, not through our own unpacking.
  QuantizedTensor logical() const {
    const auto codes = golden_.values<uint8_t>("q.codes");       // [in, out]
    const auto zeros = golden_.values<uint8_t>("q.zeros");       // [groups, out]
    const auto scales = golden_.values<uint16_t>("ref.scales");  // [groups, out]
    QuantizedTensor t = test::random_tensor(32, 256, group(), true, 1);
    for (int64_t n = 0; n < 32; ++n) {
      for (int64_t k = 0; k < 256; ++k)
        t.codes[static_cast<size_t>(n * 256 + k)] = codes[static_cast<size_t>(k * 32 + n)];
      for (int64_t j = 0; j < t.groups(); ++j) {
        t.zeros[static_cast<size_t>(n * t.groups() + j)] = zeros[static_cast<size_t>(j * 32 + n)];
        t.scales[static_cast<size_t>(n * t.groups() + j)] = scales[static_cast<size_t>(j * 32 + n)];
      }
    }
    t.symmetric = std::all_of(t.zeros.begin(), t.zeros.end(), [](uint8_t z) { return z == 8; });
    if (act_order()) t.group_index = golden_.values<int32_t>("ref.g_idx");
    return t;
  }
  QuantizedTensor read(const std::string& zeros, GptqVersion version) const {
    const TensorView g_idx = golden_.get("ref.g_idx");
    return unpack_gptq(golden_.get("ref.qweight"), golden_.get(zeros), golden_.get("ref.scales"), &g_idx, group(),
                       version, "p");
  }
  void expect_bytes(const PackedTensor& packed, const std::string& zeros) const {
    ASSERT_EQ(packed.parts.size(), 4u);
    for (const OwnedTensor& part : packed.parts)
      test::expect_same(part, golden_.get(part.name == "qzeros" ? zeros : "ref." + part.name));
  }
  Golden golden_{std::string("gptq_") + GetParam() + ".safetensors"};
};
INSTANTIATE_TEST_SUITE_P(Files, GptqGolden,
                         testing::Values("sym_g64", "sym_g128", "asym_g64", "asym_g128", "sym_g64_desc_act",
                                         "asym_g64_desc_act"));

TEST_P(GptqGolden, Version2EqualsTheBytesOfGptqModel) {
  const QuantizedTensor t = logical();
  expect_bytes(pack_gptq(t, "p", GptqVersion::kV2), "ref.qzeros_v2");
  test::expect_equal(read("ref.qzeros_v2", GptqVersion::kV2), t);
}

// GPTQModel's own v1 is v2 minus 0x11111111 in the word; where no zero is 0 that is z - 1 in each nibble.
TEST_P(GptqGolden, Version1EqualsTheBytesOfGptqModel) {
  const QuantizedTensor t = logical();
  test::expect_equal(read("ref.qzeros_v1_word_sub", GptqVersion::kV1), t);
  if (std::count(t.zeros.begin(), t.zeros.end(), 0) > 0) {
    expect_error<ArgumentError>([&] { pack_gptq(t, "model.q", GptqVersion::kV1); }, {"model.q", "is 0", "gptq_v2"});
    return;
  }
  expect_bytes(pack_gptq(t, "p", GptqVersion::kV1), "ref.qzeros_v1");
  expect_bytes(pack_gptq(t, "p", GptqVersion::kV1), "ref.qzeros_v1_word_sub");
}

// GPTQModel multiplies in f16: our f32 product rounded once is the same number.
TEST_P(GptqGolden, DequantizesToTheValuesOfGptqModel) {
  const auto expected = golden_.values<float>("ref.dequant");  // [in, out]
  const Matrix w = dequantize(read("ref.qzeros_v2", GptqVersion::kV2));
  for (int64_t n = 0; n < 32; ++n) {
    for (int64_t k = 0; k < 256; ++k)
      ASSERT_EQ(round_to_f16(w(n, k)), expected[static_cast<size_t>(k * 32 + n)]) << n << "," << k;
  }
}

class GptqShapes : public testing::TestWithParam<Shape> {};
INSTANTIATE_TEST_SUITE_P(Hard, GptqShapes,
                         testing::Values(Shape{8, 8, 8}, Shape{8, 1024, 128}, Shape{24, 72, 72}, Shape{40, 136, 8},
                                         Shape{16, 64, 64}, Shape{104, 520, 520}, Shape{576, 192, 32},
                                         Shape{16, 200, 64}, Shape{1032, 1032, 100}));

TEST_P(GptqShapes, RoundTripAndIndexFormula) {
  const auto [out, in, group] = GetParam();
  for (const bool symmetric : {true, false}) {
    for (const GptqVersion version : {GptqVersion::kV1, GptqVersion::kV2}) {
      QuantizedTensor t = test::random_tensor(out, in, group, symmetric, 7);
      if (version == GptqVersion::kV1) {
        for (uint8_t& zero : t.zeros) zero = std::max<uint8_t>(zero, 1);
      }
      const PackedTensor packed = pack_gptq(t, "p", version);
      test::expect_equal(unpack(packed, group, version), t);
      if (group == in) test::expect_equal(unpack(packed, -1, version), t);
      const auto* words = reinterpret_cast<const uint32_t*>(packed.find("qweight")->bytes.data());
      const auto* zeros = reinterpret_cast<const uint32_t*>(packed.find("qzeros")->bytes.data());
      const auto* g_idx = reinterpret_cast<const int32_t*>(packed.find("g_idx")->bytes.data());
      const int64_t groups = (in + group - 1) / group;
      for (int64_t n = 0; n < out; ++n) {
        for (int64_t k = 0; k < in; ++k) {
          ASSERT_EQ(words[k / 8 * out + n] >> (4 * (k % 8)) & 15, t.codes[static_cast<size_t>(n * in + k)]);
          ASSERT_EQ(g_idx[k], k / group);
        }
        for (int64_t j = 0; j < groups; ++j) {
          ASSERT_EQ((zeros[j * (out / 8) + n / 8] >> (4 * (n % 8)) & 15) + (version == GptqVersion::kV1 ? 1 : 0),
                    t.zeros[static_cast<size_t>(n * groups + j)]);
        }
      }
    }
  }
}

// Codes of 2 bits: sixteen in a word; version 1 stores each zero less one.
TEST(Gptq, TwoBitsByTheIndexFormula) {
  for (const GptqVersion version : {GptqVersion::kV1, GptqVersion::kV2}) {
    for (const bool scattered : {false, true}) {
      constexpr int64_t kOut = 48;
      constexpr int64_t kIn = 96;
      constexpr int64_t kGroup = 32;
      QuantizedTensor t = test::random_tensor(kOut, kIn, kGroup, false, 11, 2);
      for (uint8_t& zero : t.zeros) zero = std::max<uint8_t>(zero, version == GptqVersion::kV1 ? 1 : 0);
      for (int32_t k = 0; scattered && k < kIn; ++k) t.group_index.push_back((k * 5 + 1) % 3);
      const PackedTensor packed = pack_gptq(t, "p", version);
      EXPECT_EQ(packed.find("qweight")->shape, (std::vector<int64_t>{kIn / 16, kOut}));
      EXPECT_EQ(packed.find("qzeros")->shape, (std::vector<int64_t>{3, kOut / 16}));
      const auto* words = reinterpret_cast<const uint32_t*>(packed.find("qweight")->bytes.data());
      const auto* zeros = reinterpret_cast<const uint32_t*>(packed.find("qzeros")->bytes.data());
      for (int64_t n = 0; n < kOut; ++n) {
        for (int64_t k = 0; k < kIn; ++k)
          ASSERT_EQ(words[k / 16 * kOut + n] >> (2 * (k % 16)) & 3, t.codes[static_cast<size_t>(n * kIn + k)]);
        for (int64_t j = 0; j < 3; ++j)
          ASSERT_EQ((zeros[j * (kOut / 16) + n / 16] >> (2 * (n % 16)) & 3) + (version == GptqVersion::kV1 ? 1 : 0),
                    t.zeros[static_cast<size_t>(n * 3 + j)]);
      }
      const TensorView g_idx = packed.find("g_idx")->view();
      test::expect_equal(unpack_gptq(packed.find("qweight")->view(), packed.find("qzeros")->view(),
                                     packed.find("scales")->view(), &g_idx, kGroup, version, "p", Codes::kRead, 2),
                         t);
    }
  }
}

TEST(Gptq, ActOrderKeepsItsGroupsAndItsWeights) {
  QuantizedTensor t = test::random_tensor(16, 64, 16, false, 5);
  for (int32_t k = 0; k < 64; ++k) t.group_index.push_back((k * 7 + 3) % 4);
  const PackedTensor packed = pack_gptq(t, "p", GptqVersion::kV2);
  const QuantizedTensor read = unpack(packed, 16, GptqVersion::kV2);
  test::expect_equal(read, t);
  EXPECT_EQ(read.group_index, t.group_index);
  const Matrix w = dequantize(read);
  for (int64_t n = 0; n < 16; ++n) {
    for (int64_t k = 0; k < 64; ++k) {
      const auto at = static_cast<size_t>(n * 4 + (k * 7 + 3) % 4);
      ASSERT_EQ(w(n, k),
                static_cast<float>(t.codes[static_cast<size_t>(n * 64 + k)] - t.zeros[at]) * f16_to_f32(t.scales[at]));
    }
  }
}

TEST(Gptq, WithoutGroupIndexGroupsAreConsecutive) {
  const QuantizedTensor t = test::random_tensor(16, 64, 16, false, 5);
  const PackedTensor packed = pack_gptq(t, "p", GptqVersion::kV2);
  test::expect_equal(unpack_gptq(packed.parts[0].view(), packed.parts[1].view(), packed.parts[2].view(), nullptr, 16,
                                 GptqVersion::kV2, "p"),
                     t);
  const QuantizedTensor groups = unpack_gptq(packed.parts[0].view(), packed.parts[1].view(), packed.parts[2].view(),
                                             nullptr, 16, GptqVersion::kV2, "p", Codes::kSkip);
  EXPECT_TRUE(groups.codes.empty());
  EXPECT_EQ(groups.zeros, t.zeros);
}

TEST(Gptq, SymmetricZerosOfBothVersions) {
  for (const auto& [version, byte] :
       {std::pair{GptqVersion::kV1, std::byte{0x77}}, {GptqVersion::kV2, std::byte{0x88}}}) {
    const PackedTensor packed = pack_gptq(test::random_tensor(64, 64, 32, true, 1), "p", version);
    const auto bytes = packed.find("qzeros")->view().bytes;
    EXPECT_TRUE(std::all_of(bytes.begin(), bytes.end(), [b = byte](std::byte x) { return x == b; }));
  }
}

TEST(Gptq, DoesNotDependOnThreads) {
  test::expect_independent_of_threads(test::random_tensor(1048, 1048, 100, false, 3),
                                      [](const auto& t) { return pack_gptq(t, "p", GptqVersion::kV2); });
}

TEST(Gptq, BuffersAreUsedAgain) {
  PackedTensor packed;
  pack_gptq(test::random_tensor(64, 128, 32, false, 1), "p", GptqVersion::kV2, packed);
  const std::byte* before = packed.parts[0].bytes.data();
  const QuantizedTensor t = test::random_tensor(64, 128, 32, false, 2);
  pack_gptq(t, "p", GptqVersion::kV2, packed);
  EXPECT_EQ(packed.parts[0].bytes.data(), before);
  test::expect_equal(unpack(packed, 32, GptqVersion::kV2), t);
  const QuantizedTensor smaller = test::random_tensor(8, 64, 64, false, 3);
  pack_gptq(smaller, "p", GptqVersion::kV2, packed);
  test::expect_equal(unpack(packed, 64, GptqVersion::kV2), smaller);
}

TEST(GptqPack, RefusesWhatTheLayoutCannotHold) {
  const auto refused = [](QuantizedTensor t, const std::vector<std::string>& texts) {
    expect_error<ArgumentError>([&] { pack_gptq(t, "model.q", GptqVersion::kV2); }, texts);
  };
  refused(test::random_tensor(12, 64, 32, true, 1), {"model.q", "12", "multiples of 8"});
  refused(test::random_tensor(8, 12, 12, true, 1), {"model.q", "12", "multiples of 8"});
  QuantizedTensor t = test::random_tensor(8, 64, 32, true, 1);
  t.group_index.assign(63, 0);
  refused(t, {"model.q", "63"});
  t.group_index.assign(64, 2);
  refused(t, {"model.q", "group 2"});
  for (const size_t at : {size_t{0}, size_t{5 * 72 + 13}, size_t{7 * 72 + 71}}) {
    t = test::random_tensor(8, 72, 72, true, 1);
    t.codes[at] = 0x10;
    refused(t, {"model.q", "code is above 15"});
  }
}

TEST(GptqUnpack, RefusesDamagedParts) {
  const PackedTensor packed = pack_gptq(test::random_tensor(16, 64, 32, false, 1), "p", GptqVersion::kV2);
  const TensorView weight = packed.parts[0].view();
  const TensorView zeros = packed.parts[1].view();
  const TensorView scales = packed.parts[2].view();
  const TensorView g_idx = packed.parts[3].view();
  const auto refused = [&](const TensorView& w, const TensorView& z, const TensorView& s, const TensorView& g,
                           int64_t group, const std::vector<std::string>& texts) {
    expect_error<FormatError>([&] { unpack_gptq(w, z, s, &g, group, GptqVersion::kV2, "model.q"); }, texts);
  };
  const auto changed = [](TensorView view, auto change) {
    change(view);
    return view;
  };
  const auto shaped = [&](const TensorView& view, std::vector<int64_t> shape) {
    return changed(view, [&](auto& v) { v.shape = std::move(shape); });
  };
  refused(changed(weight, [](auto& v) { v.dtype = DType::kF32; }), zeros, scales, g_idx, 32,
          {"model.q", "qweight", "F32"});
  refused(shaped(weight, {128}), zeros, scales, g_idx, 32, {"model.q", "[128]"});
  refused(shaped(weight, {8, 12}), zeros, scales, g_idx, 32, {"model.q", "[8, 12]"});
  refused(shaped(weight, {-8, -16}), zeros, scales, g_idx, 32, {"model.q", "[-8, -16]"});
  refused(shaped(weight, {int64_t{1} << 61, 16}), zeros, scales, g_idx, 32, {"model.q", "qweight"});
  refused(shaped(weight, {8, int64_t{1} << 62}), zeros, scales, g_idx, 32, {"model.q", "qweight"});
  refused(weight, shaped(zeros, {2, 16}), scales, g_idx, 32, {"model.q", "qzeros", "[2, 2]", "[2, 16]"});
  refused(weight, changed(zeros, [](auto& v) { v.bytes = v.bytes.first(15); }), scales, g_idx, 32,
          {"qzeros", "15 bytes"});
  refused(weight, zeros, changed(scales, [](auto& v) { v.dtype = DType::kBF16; }), g_idx, 32, {"scales", "BF16"});
  refused(weight, zeros, scales, g_idx, 64, {"model.q", "qzeros", "[1, 2]"});
  refused(weight, zeros, scales, g_idx, 0, {"model.q", "group size 0"});
  refused(weight, zeros, scales, shaped(g_idx, {32}), 32, {"model.q", "g_idx", "[64]", "[32]"});
  refused(weight, zeros, scales, changed(g_idx, [](auto& v) { v.dtype = DType::kI64; }), 32, {"g_idx", "I64"});
  for (const int32_t value : {-1, 2, std::numeric_limits<int32_t>::min(), std::numeric_limits<int32_t>::max()}) {
    std::vector<int32_t> groups(64);
    for (int32_t k = 0; k < 64; ++k) groups[static_cast<size_t>(k)] = k / 32;
    groups[41] = value;
    refused(weight, zeros, scales, changed(g_idx, [&](auto& v) { v.bytes = std::as_bytes(std::span(groups)); }), 32,
            {"model.q", "g_idx", "[41]", std::to_string(value)});
  }
  PackedTensor infinite = pack_gptq(test::random_tensor(16, 64, 32, false, 1), "p", GptqVersion::kV2);
  const uint16_t nan = 0x7e01;
  std::memcpy(infinite.parts[2].bytes.data() + 2 * 17, &nan, 2);
  refused(weight, zeros, infinite.parts[2].view(), g_idx, 32, {"model.q", "scales", "[1, 1]"});
}

// At 3 and 8 bits: the bytes of GPTQModel from the file's logical codes, and back.
class GptqWidths : public testing::TestWithParam<int> {
 protected:
  QuantizedTensor logical() const {
    const auto codes = golden_.values<uint8_t>("q.codes");       // [in, out]
    const auto zeros = golden_.values<uint8_t>("q.zeros");       // [groups, out]
    const auto scales = golden_.values<uint16_t>("ref.scales");  // [groups, out]
    QuantizedTensor t = test::random_tensor(64, 128, 32, false, 1, GetParam());
    for (size_t n = 0; n < 64; ++n) {
      for (size_t k = 0; k < 128; ++k) t.codes[n * 128 + k] = codes[k * 64 + n];
      for (size_t j = 0; j < 4; ++j) {
        t.zeros[n * 4 + j] = zeros[j * 64 + n];
        t.scales[n * 4 + j] = scales[j * 64 + n];
      }
    }
    return t;
  }
  void expect_both_ways(GptqVersion version, const std::string& zeros) const {
    const QuantizedTensor t = logical();
    const PackedTensor packed = pack_gptq(t, "p", version);
    for (const OwnedTensor& part : packed.parts)
      test::expect_same(part, golden_.get(part.name == "qzeros" ? zeros : "ref." + part.name));
    const TensorView g_idx = golden_.get("ref.g_idx");
    test::expect_equal(unpack_gptq(golden_.get("ref.qweight"), golden_.get(zeros), golden_.get("ref.scales"), &g_idx,
                                   32, version, "p", Codes::kRead, GetParam()),
                       t);
  }
  Golden golden_{"gptq_" + std::to_string(GetParam()) + "bit.safetensors"};
};
INSTANTIATE_TEST_SUITE_P(Bits, GptqWidths, testing::Values(3, 8));

TEST_P(GptqWidths, Version2EqualsTheBytesOfGptqModel) {
  expect_both_ways(GptqVersion::kV2, "ref.qzeros_v2");
}

TEST_P(GptqWidths, Version1EqualsTheBytesOfGptqModelOrIsRefused) {
  if (GetParam() == 8) {
    expect_both_ways(GptqVersion::kV1, "ref.qzeros_v1");
    return;
  }
  const QuantizedTensor t = logical();
  expect_error<ArgumentError>([&] { pack_gptq(t, "model.q", GptqVersion::kV1); }, {"model.q", "3 bits", "4 or 8"});
  expect_error<FormatError>(
      [&] {
        unpack_gptq(golden_.get("ref.qweight"), golden_.get("ref.qzeros_v2"), golden_.get("ref.scales"), nullptr, 32,
                    GptqVersion::kV1, "model.q", Codes::kRead, 3);
      },
      {"model.q", "3 bits"});
}

TEST(GptqWidthsShapes, RoundTrip) {
  for (const int bits : {3, 8}) {
    for (const auto& [out, in, group] : {Shape{32, 32, 32}, Shape{96, 160, 64}, Shape{1056, 96, 96}}) {
      const QuantizedTensor t = test::random_tensor(out, in, group, false, 5, bits);
      const PackedTensor p = pack_gptq(t, "p", GptqVersion::kV2);
      const TensorView g_idx = p.find("g_idx")->view();
      test::expect_equal(unpack_gptq(p.find("qweight")->view(), p.find("qzeros")->view(), p.find("scales")->view(),
                                     &g_idx, group, GptqVersion::kV2, "p", Codes::kRead, bits),
                         t);
    }
    expect_error<ArgumentError>(
        [&] { pack_gptq(test::random_tensor(34, 64, 64, true, 1, bits), "model.q", GptqVersion::kV2); },
        {"model.q", bits == 3 ? "multiples of 32" : "multiples of 4"});
  }
}

}  // namespace
}  // namespace metal_marlin

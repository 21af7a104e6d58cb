#include "pack/native.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/threads.h"
#include "pack/golden.h"

namespace metal_marlin {
namespace {

using test::expect_error;
using test::Golden;
using test::Shape;

QuantizedTensor unpack(const PackedTensor& packed, int64_t group) {
  return unpack_native(packed.find("weight")->view(), packed.find("weight.scales")->view(),
                       packed.find("weight.zeros")->view(), group, "p");
}

class NativeGolden : public testing::TestWithParam<const char*> {
 protected:
  TensorView get(const std::string& part) const { return golden_.get(prefix_ + part); }
  Golden golden_{"native.safetensors"};
  std::string prefix_ = std::string("own.") + GetParam() + ".";
};
INSTANTIATE_TEST_SUITE_P(Schemes, NativeGolden, testing::Values("sym", "asym"));

TEST_P(NativeGolden, BytesInBothDirections) {
  const QuantizedTensor t = unpack_native(get("weight"), get("weight.scales"), get("weight.zeros"), 128, "p");
  EXPECT_EQ(t.out_features, 32);
  EXPECT_EQ(t.in_features, 256);
  EXPECT_EQ(t.symmetric, std::string(GetParam()) == "sym");
  const auto q_scale = golden_.values<uint16_t>(prefix_ + "weight.q_scale");
  const PackedTensor packed = pack_native(t, "p", q_scale);
  ASSERT_EQ(packed.parts.size(), 4u);
  for (const OwnedTensor& part : packed.parts) test::expect_same(part, get(part.name));
}

TEST_P(NativeGolden, DequantizesAsTheFormulaSays) {
  const QuantizedTensor t = unpack_native(get("weight"), get("weight.scales"), get("weight.zeros"), 128, "p");
  const auto expected = golden_.values<float>(prefix_ + "dequant_f32");  // [in, out]
  const std::vector<float> q_scale = unpack_q_scale(get("weight.q_scale"), 256, "p");
  const Matrix w = dequantize(t);
  for (int64_t n = 0; n < 32; ++n) {
    for (int64_t k = 0; k < 256; ++k) {
      ASSERT_EQ(w(n, k) / q_scale[static_cast<size_t>(k)], expected[static_cast<size_t>(k * 32 + n)]) << n << "," << k;
    }
  }
}

TEST(Native, EveryCodeInEveryNibble) {
  const Golden golden("native.safetensors");
  const auto codes = golden.values<int8_t>("in.full_range");  // [128, 16], -8..7
  QuantizedTensor t = test::random_tensor(16, 128, 128, true, 1);
  for (int64_t k = 0; k < 128; ++k) {
    for (int64_t n = 0; n < 16; ++n) {
      t.codes[static_cast<size_t>(n * 128 + k)] = static_cast<uint8_t>(codes[static_cast<size_t>(k * 16 + n)] + 8);
    }
  }
  test::expect_same(pack_native(t, "p").parts[0], golden.get("own.full_range_packed"));
}

class NativeShapes : public testing::TestWithParam<Shape> {};
INSTANTIATE_TEST_SUITE_P(Hard, NativeShapes,
                         testing::Values(Shape{1, 8, 8}, Shape{1, 1024, 128}, Shape{3, 24, 8}, Shape{17, 72, 72},
                                         Shape{31, 136, 8}, Shape{16, 64, 64}, Shape{33, 576, 64}, Shape{100, 520, 520},
                                         Shape{576, 192, 32}));

TEST_P(NativeShapes, RoundTripAndIndexFormula) {
  const auto [out, in, group] = GetParam();
  for (const bool symmetric : {true, false}) {
    const QuantizedTensor t = test::random_tensor(out, in, group, symmetric, 7);
    const PackedTensor packed = pack_native(t, "p");
    EXPECT_EQ(packed.parts.size(), 3u);
    test::expect_equal(unpack(packed, group), t);
    if (group == in) test::expect_equal(unpack(packed, -1), t);
    const auto* words = reinterpret_cast<const uint32_t*>(packed.find("weight")->bytes.data());
    for (int64_t n = 0; n < out; ++n) {
      for (int64_t k = 0; k < in; ++k) {
        ASSERT_EQ(words[k / 8 * out + n] >> (4 * (k % 8)) & 15, t.codes[static_cast<size_t>(n * in + k)])
            << n << "," << k;
      }
    }
  }
}

// The bit of a stream that is stored in the words of one column.
bool stream_bit(const uint32_t* words, int64_t out, int64_t n, int64_t bit) {
  return (words[bit / 32 * out + n] >> (bit % 32) & 1) != 0;
}

TEST(NativeWidths, RoundTripAndIndexFormula) {
  for (const int bits : {3, 4, 8}) {
    for (const auto& [out, in, group] : {Shape{1, 32, 32}, Shape{3, 96, 32}, Shape{17, 288, 96}, Shape{33, 576, 64},
                                         Shape{1030, 64, 64}, Shape{5, 2112, 2112}}) {
      for (const bool symmetric : {true, false}) {
        const QuantizedTensor t = test::random_tensor(out, in, group, symmetric, 11, bits);
        const PackedTensor packed = pack_native(t, "p");
        EXPECT_EQ(packed.parts[0].shape, (std::vector<int64_t>{in * bits / 32, out}));
        test::expect_equal(unpack_native(packed.parts[0].view(), packed.parts[1].view(), packed.parts[2].view(), group,
                                         "p", Codes::kRead, bits),
                           t);
        const auto* words = reinterpret_cast<const uint32_t*>(packed.parts[0].bytes.data());
        for (int64_t n = 0; n < out; n += 7) {
          for (int64_t k = 0; k < in; ++k) {
            int code = 0;
            for (int b = 0; b < bits; ++b) code |= static_cast<int>(stream_bit(words, out, n, k * bits + b)) << b;
            ASSERT_EQ(code, t.codes[static_cast<size_t>(n * in + k)]) << bits << " bits " << n << "," << k;
          }
        }
      }
    }
  }
}

TEST(NativeWidths, EightBitsMayHaveFewerInputsThanAWordOfNibbles) {
  const QuantizedTensor t = test::random_tensor(3, 12, 4, false, 2, 8);
  const PackedTensor packed = pack_native(t, "p");
  test::expect_equal(
      unpack_native(packed.parts[0].view(), packed.parts[1].view(), packed.parts[2].view(), 4, "p", Codes::kRead, 8),
      t);
}

TEST(NativeWidths, DoNotDependOnThreads) {
  for (const int bits : {3, 8}) {
    test::expect_independent_of_threads(test::random_tensor(1100, 256, 64, false, 3, bits),
                                        [](const auto& t) { return pack_native(t, "p"); });
  }
}

TEST(NativeWidths, ZerosAreIntegersOfTheWidth) {
  for (const int bits : {3, 8}) {
    const float half = static_cast<float>(1 << (bits - 1));
    for (const float bad : {-half - 1, half, 0.5f}) {
      PackedTensor packed = pack_native(test::random_tensor(4, 64, 32, false, 1, bits), "p");
      const uint16_t stored = f32_to_f16(bad);
      std::memcpy(packed.parts[2].bytes.data() + 10, &stored, 2);
      expect_error<FormatError>(
          [&] {
            unpack_native(packed.parts[0].view(), packed.parts[1].view(), packed.parts[2].view(), 32, "model.q",
                          Codes::kRead, bits);
          },
          {"model.q", "zeros", "[1, 1]", bits == 3 ? "-4..3" : "-128..127"});
    }
  }
}

TEST(NativeWidths, RefusesWhatTheyCannotHold) {
  QuantizedTensor t = test::random_tensor(4, 64, 32, false, 1, 3);
  t.codes[70] = 8;
  expect_error<ArgumentError>([&] { pack_native(t, "model.q"); }, {"model.q", "code is above 7"});
  t.codes[70] = 7;
  t.zeros[1] = 8;
  expect_error<ArgumentError>([&] { pack_native(t, "model.q"); }, {"model.q", "zero 8 above 7"});
  expect_error<ArgumentError>([] { pack_native(test::random_tensor(4, 40, 40, true, 1, 3), "model.q"); },
                              {"model.q", "40", "multiple of 32"});
  expect_error<ArgumentError>([] { pack_native(test::random_tensor(4, 42, 42, true, 1, 8), "model.q"); },
                              {"model.q", "42", "multiple of 4"});
  const PackedTensor packed = pack_native(test::random_tensor(4, 64, 32, true, 1, 4), "p");
  const auto unpack_as = [&](int bits) {
    unpack_native(packed.parts[0].view(), packed.parts[1].view(), packed.parts[2].view(), 32, "model.q", Codes::kRead,
                  bits);
  };
  expect_error<FormatError>([&] { unpack_as(3); }, {"model.q", "[8, 4]"});  // 8 rows of words are no runs of 3
  expect_error<FormatError>([&] { unpack_as(8); }, {"model.q", "scales", "[1, 4]"});
  expect_error<FormatError>([&] { unpack_as(5); }, {"model.q", "5 bits"});
}

TEST(Native, DoesNotDependOnThreads) {
  test::expect_independent_of_threads(test::random_tensor(100, 256, 64, false, 3),
                                      [](const auto& t) { return pack_native(t, "p"); });
}

TEST(Native, SymmetricZerosArePositiveZero) {
  const PackedTensor packed = pack_native(test::random_tensor(4, 64, 32, true, 1), "p");
  const auto bytes = packed.find("weight.zeros")->view().bytes;
  EXPECT_TRUE(std::all_of(bytes.begin(), bytes.end(), [](std::byte b) { return b == std::byte{0}; }));
}

TEST(NativePack, RefusesWhatTheLayoutCannotHold) {
  const QuantizedTensor good = test::random_tensor(4, 64, 32, false, 1);
  const auto refused = [&](auto change, const std::vector<std::string>& texts) {
    QuantizedTensor t = good;
    change(t);
    expect_error<ArgumentError>([&] { pack_native(t, "model.q"); }, texts);
  };
  refused([](auto& t) { t.bits = 5; }, {"model.q", "5 bits", "3, 4 or 8"});
  refused([](auto& t) { t.group_size = 48; }, {"model.q", "group 48"});
  refused([](auto& t) { t.group_size = 0; }, {"model.q", "group 0"});
  refused([](auto& t) { t.codes.pop_back(); }, {"model.q", "255 codes"});
  refused([](auto& t) { t.codes[77] = 16; }, {"model.q", "code is above 15"});
  refused([](auto& t) { t.zeros[1] = 16; }, {"model.q", "zero 16"});
  refused([](auto& t) { t.scales[1] = 0x7c00; }, {"model.q", "not finite"});
  refused([](auto& t) { t.scales.pop_back(); }, {"model.q", "scales"});
  expect_error<ArgumentError>([&] { pack_native(test::random_tensor(4, 20, 20, true, 1), "model.q"); },
                              {"model.q", "20", "multiple of 8"});
  const std::vector<uint16_t> short_scale(63, 0x3c00);
  expect_error<ArgumentError>([&] { pack_native(good, "model.q", short_scale); }, {"model.q", "63"});
}

TEST(NativeUnpack, RefusesDamagedParts) {
  PackedTensor packed = pack_native(test::random_tensor(4, 64, 32, false, 1), "p");
  const TensorView weight = packed.parts[0].view();
  const TensorView scales = packed.parts[1].view();
  const TensorView zeros = packed.parts[2].view();
  const auto refused = [&](TensorView w, TensorView s, TensorView z, int64_t group,
                           const std::vector<std::string>& texts) {
    expect_error<FormatError>([&] { unpack_native(w, s, z, group, "model.q"); }, texts);
  };
  const auto changed = [](TensorView view, auto change) {
    change(view);
    return view;
  };
  refused(changed(weight, [](auto& v) { v.dtype = DType::kF32; }), scales, zeros, 32,
          {"model.q", "weight", "U32", "F32"});
  refused(changed(weight, [](auto& v) { v.shape = {8, 2, 2}; }), scales, zeros, 32, {"model.q", "[8, 2, 2]"});
  refused(changed(weight, [](auto& v) { v.shape = {8, 5}; }), scales, zeros, 32, {"model.q", "weight"});
  refused(changed(weight, [](auto& v) { v.shape = {0, 4}; }), scales, zeros, 32, {"model.q", "[0, 4]"});
  refused(changed(weight, [](auto& v) { v.shape = {int64_t{1} << 61, 4}; }), scales, zeros, 32, {"model.q"});
  refused(changed(weight, [](auto& v) { v.bytes = v.bytes.first(127); }), scales, zeros, 32, {"model.q", "127 bytes"});
  refused(weight, changed(scales, [](auto& v) { v.shape = {4, 4}; }), zeros, 32,
          {"model.q", "scales", "[2, 4]", "[4, 4]"});
  refused(weight, changed(scales, [](auto& v) { v.dtype = DType::kBF16; }), zeros, 32, {"model.q", "scales", "BF16"});
  refused(weight, scales, changed(zeros, [](auto& v) { v.shape = {2, 3}; }), 32, {"model.q", "zeros", "[2, 3]"});
  refused(weight, scales, zeros, 16, {"model.q", "scales", "[4, 4]"});
  refused(weight, scales, zeros, 24, {"model.q", "24"});
  refused(weight, scales, zeros, 0, {"model.q", "group size 0"});
  for (const float bad : {0.5f, 8.0f, -9.0f, std::numeric_limits<float>::infinity(), std::nanf("")}) {
    PackedTensor copy = pack_native(test::random_tensor(4, 64, 32, false, 1), "p");
    const uint16_t half = f32_to_f16(bad);
    std::memcpy(copy.parts[2].bytes.data() + 10, &half, 2);
    refused(weight, scales, copy.parts[2].view(), 32, {"model.q", "zeros", "[1, 1]"});
    if (std::isfinite(bad)) continue;
    std::memcpy(copy.parts[1].bytes.data() + 10, &half, 2);
    refused(weight, copy.parts[1].view(), zeros, 32, {"model.q", "scales", "[1, 1]"});
  }
}

TEST(NativeQScale, MustBeFiniteAndPositive) {
  for (const float bad : {0.0f, -1.0f, std::numeric_limits<float>::infinity(), std::nanf("")}) {
    std::vector<uint16_t> halfs(8, 0x3c00);
    EXPECT_EQ(unpack_q_scale({"", DType::kF16, {8}, std::as_bytes(std::span(halfs))}, 8, "p"),
              std::vector<float>(8, 1.0f));
    halfs[5] = f32_to_f16(bad);
    expect_error<FormatError>(
        [&] { unpack_q_scale({"", DType::kF16, {8}, std::as_bytes(std::span(halfs))}, 8, "model.q"); },
        {"model.q", "q_scale", "[5]"});
  }
}

}  // namespace
}  // namespace metal_marlin

#include "pack/compressed_tensors.h"

#include "core/half.h"
#include "pack/bits/row_stream.h"
#include "pack/golden.h"

namespace metal_marlin {
namespace {

using test::expect_error;
using test::Golden;

struct Case {
  const char* file;
  int64_t group;
};

class CompressedTensorsGolden : public testing::TestWithParam<Case> {
 protected:
  QuantizedTensor unpack() const {
    const TensorView shape = golden_.get("ref.weight_shape");
    std::optional<TensorView> zeros;
    if (asymmetric()) zeros = golden_.get("ref.weight_zero_point");
    return unpack_compressed_tensors(golden_.get("ref.weight_packed"), golden_.get("ref.weight_scale"), shape,
                                     zeros ? &*zeros : nullptr, GetParam().group, 4, "p");
  }
  bool asymmetric() const { return std::string(GetParam().file).find("asym") != std::string::npos; }
  Golden golden_{std::string(GetParam().file) + ".safetensors"};
};
INSTANTIATE_TEST_SUITE_P(Files, CompressedTensorsGolden,
                         testing::Values(Case{"ct_sym_g64", 64}, Case{"ct_sym_g128", 128}, Case{"ct_sym_channel", -1},
                                         Case{"ct_asym_g64", 64}, Case{"ct_asym_g128", 128},
                                         Case{"ct_asym_channel", -1}),
                         [](const auto& info) { return std::string(info.param.file); });

TEST_P(CompressedTensorsGolden, BytesInBothDirections) {
  const QuantizedTensor t = unpack();
  EXPECT_EQ(t.codes, golden_.values<uint8_t>("q.codes"));
  EXPECT_EQ(t.zeros, golden_.values<uint8_t>("q.zeros"));
  EXPECT_EQ(t.symmetric, !asymmetric());
  const PackedTensor packed = pack_compressed_tensors(t, "p");
  ASSERT_EQ(packed.parts.size(), asymmetric() ? 4u : 3u);
  for (const OwnedTensor& part : packed.parts) test::expect_same(part, golden_.get("ref." + part.name));
}

TEST_P(CompressedTensorsGolden, DequantizesAsThePackageDoes) {
  const auto expected = golden_.values<float>("ref.dequant");  // [out, in]
  const Matrix w = dequantize(unpack());
  ASSERT_EQ(static_cast<size_t>(w.rows() * w.cols()), expected.size());
  for (int64_t n = 0; n < w.rows(); ++n) {
    for (int64_t k = 0; k < w.cols(); ++k) {
      // The package multiplies in float32 and stores float16 or float32.
      const float e = expected[static_cast<size_t>(n * w.cols() + k)];
      ASSERT_NEAR(w(n, k), e, std::abs(e) * 0x1p-10F) << n << "," << k;
    }
  }
}

// Rows and columns that fill no whole word: padding is zeros.
TEST(CompressedTensors, RaggedRowsAndColumns) {
  const Golden golden("ct_ragged.safetensors");
  const auto values = golden.values<int8_t>("q.signed");  // [10, 20]
  std::vector<uint8_t> codes(values.size());
  for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<uint8_t>(values[i] + 8);
  ASSERT_EQ(row_words(20, 4), 3);
  std::vector<int32_t> words(30);
  ASSERT_TRUE(pack_rows(codes.data(), 10, 20, 4, reinterpret_cast<std::byte*>(words.data())));
  EXPECT_EQ(words, golden.values<int32_t>("ref.packed_dim1"));
  // As zero points: 10 outputs, 20 groups.
  QuantizedTensor t{.out_features = 10, .in_features = 20, .group_size = 1, .symmetric = false};
  t.codes.assign(200, 3);
  t.scales.assign(200, f32_to_f16(1.0F));
  t.zeros = codes;
  const PackedTensor packed = pack_compressed_tensors(t, "p");
  test::expect_same(*packed.find("weight_zero_point"), [&] {
    TensorView view = golden.get("ref.packed_dim0");
    return view;
  }());
}

TEST(RowStream, EveryWidthAndLengthComesBack) {
  Random random(5);
  for (int bits = 1; bits <= 8; ++bits) {
    for (const int64_t in : {1, 7, 8, 9, 31, 32, 33, 40, 63, 64, 100, 257}) {
      const int64_t out = 3;
      std::vector<uint8_t> codes(static_cast<size_t>(out * in));
      for (uint8_t& c : codes) c = static_cast<uint8_t>(random.below(1u << bits));
      const int64_t words = row_words(in, bits);
      std::vector<uint32_t> packed(static_cast<size_t>(out * words), 0xdeadbeefu);
      ASSERT_TRUE(pack_rows(codes.data(), out, in, bits, reinterpret_cast<std::byte*>(packed.data())));
      // By the formula: bit i of the stream is bit i mod 32 of word i / 32, and the padding is 0.
      for (int64_t n = 0; n < out; ++n) {
        for (int64_t i = 0; i < 32 * words; ++i) {
          const uint32_t bit = packed[static_cast<size_t>(n * words + i / 32)] >> (i % 32) & 1u;
          const int64_t k = i / bits;
          const uint32_t wanted = k < in ? codes[static_cast<size_t>(n * in + k)] >> (i % bits) & 1u : 0u;
          ASSERT_EQ(bit, wanted) << bits << " bits, in " << in << ", bit " << i;
        }
      }
      std::vector<uint8_t> back(codes.size(), 0xff);
      unpack_rows(reinterpret_cast<const std::byte*>(packed.data()), out, in, bits, back.data());
      EXPECT_EQ(back, codes) << bits << " bits, in " << in;
      if (bits == 8) continue;
      codes.back() = static_cast<uint8_t>(1u << bits);
      EXPECT_FALSE(pack_rows(codes.data(), out, in, bits, reinterpret_cast<std::byte*>(packed.data())));
    }
  }
}

TEST(CompressedTensors, RefusesWhatItCannotHold) {
  QuantizedTensor t = test::random_tensor(16, 64, 32, false, 3);
  t.minima.assign(t.scales.size(), 0);
  expect_error<ArgumentError>([&] { pack_compressed_tensors(t, "p"); }, {"p", "minima"});
  t = test::random_tensor(16, 64, 32, false, 3);
  t.zeros[3] = 1;
  t.symmetric = true;
  expect_error<ArgumentError>([&] { pack_compressed_tensors(t, "p"); }, {"p", "symmetric", "zero"});
  t = test::random_tensor(16, 64, 32, true, 3);
  t.group_index.assign(64, 0);
  expect_error<ArgumentError>([&] { pack_compressed_tensors(t, "p"); }, {"p", "act order"});
}

}  // namespace
}  // namespace metal_marlin

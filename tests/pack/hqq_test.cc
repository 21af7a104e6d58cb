#include "pack/hqq.h"

#include <algorithm>
#include <cmath>

#include "pack/golden.h"

namespace metal_marlin {
namespace {

using test::expect_error;
using test::Golden;

const Golden& golden() {
  static const Golden kGolden("hqq.safetensors");
  return kGolden;
}
TensorView part(const std::string& name, const char* what) {
  return golden().get(name + "." + what);
}
QuantizedTensor unpack(const std::string& name, int bits, Codes codes = Codes::kRead) {
  const TensorView zero = part(name, "zero");
  return unpack_hqq(part(name, "W_q"), part(name, "scale"), &zero, part(name, "shape"), bits, "p", codes);
}

struct Case {
  const char* name;
  int bits;
};
void PrintTo(const Case& c, std::ostream* out) {
  *out << c.name;
}
class HqqGolden : public testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Files, HqqGolden,
                         testing::Values(Case{"b1", 1}, Case{"b2", 2}, Case{"b3", 3}, Case{"b3_padded", 3},
                                         Case{"b4", 4}, Case{"b4_view", 4}, Case{"b4_round", 4}, Case{"b8", 8}),
                         [](const auto& p) { return std::string(p.param.name); });

TEST_P(HqqGolden, ReadsTheBytesOfHqq) {
  const auto [name, bits] = GetParam();
  const HqqForm form = hqq_form(part(name, "W_q"), part(name, "scale"), part(name, "shape"), "p");
  EXPECT_EQ(form.stored_bits, bits);
  EXPECT_EQ(form.in_features, 64);
  EXPECT_EQ(form.group_size, 32);
  const QuantizedTensor t = unpack(name, bits);
  EXPECT_EQ(t.codes, golden().values<uint8_t>(std::string("ref.") + name + ".codes"));
  EXPECT_EQ(t.scales, golden().values<uint16_t>(std::string(name) + ".scale"));
  EXPECT_TRUE(unpack(name, bits, Codes::kSkip).codes.empty());
  EXPECT_NO_THROW(validate(t, "p"));
}

// The minimum is rounded once to float16, so that a weight is at most half a unit in its last place off.
TEST_P(HqqGolden, DequantizesToTheFormula) {
  const auto [name, bits] = GetParam();
  const QuantizedTensor t = unpack(name, bits);
  const auto expected = golden().values<double>(std::string("ref.") + name + ".dequant");
  EXPECT_EQ(t.minima.empty(), std::string(name) == "b4_round");
  const Matrix w = dequantize(t);
  for (int64_t n = 0; n < w.rows(); ++n) {
    for (int64_t k = 0; k < w.cols(); ++k) {
      const auto group = static_cast<size_t>(n * t.groups() + k / 32);
      const double slack = std::abs(t.minimum(group)) / 2048 + 1e-6;
      ASSERT_NEAR(w(n, k), expected[static_cast<size_t>(n * 64 + k)], slack) << n << "," << k;
    }
  }
}

// offload_meta stacks zeros and scales.
TEST(Hqq, ZerosAndScalesInOneTensor) {
  const TensorView zero = part("b4", "zero");
  const TensorView scale = part("b4", "scale");
  std::vector<std::byte> both(zero.bytes.begin(), zero.bytes.end());
  both.insert(both.end(), scale.bytes.begin(), scale.bytes.end());
  const TensorView stacked{"zero_scale", DType::kF16, {2, 32, 1}, both};
  const QuantizedTensor t = unpack_hqq(part("b4", "W_q"), stacked, nullptr, part("b4", "shape"), 4, "p");
  const QuantizedTensor apart = unpack("b4", 4);
  test::expect_equal(t, apart);
  EXPECT_EQ(t.minima, apart.minima);
}

TEST(Hqq, FiveAndSixBitsStandInBytes) {
  expect_error<FormatError>([] { unpack("b8", 6); }, {"p", "code [", "at most 63"});
  expect_error<FormatError>([] { unpack("b4", 6); }, {"p", "6 bits", "form of 4"});
  const TensorView zero = part("b8", "zero");
  std::vector<std::byte> low(part("b8", "W_q").bytes.size(), std::byte{31});
  TensorView codes = part("b8", "W_q");
  codes.bytes = low;
  const QuantizedTensor t = unpack_hqq(codes, part("b8", "scale"), &zero, part("b8", "shape"), 5, "p");
  EXPECT_EQ(t.bits, 5);
  EXPECT_EQ(t.codes.front(), 31);
}

TEST(Hqq, RefusesFormsThatItDoesNotHave) {
  TensorView scale = part("b4", "scale");
  scale.shape = {1, 32};
  expect_error<UnsupportedError>([&] { hqq_form(part("b4", "W_q"), scale, part("b4", "shape"), "a.b"); },
                                 {"a.b", "axis 0", "[1, 32]"});
  scale.shape = {32};
  expect_error<FormatError>([&] { hqq_form(part("b4", "W_q"), scale, part("b4", "shape"), "a.b"); },
                            {"a.b", "scale", "[32]"});
  expect_error<FormatError>(
      [] { hqq_form(part("b4", "W_q"), part("b3_padded", "scale"), part("b3_padded", "shape"), "a"); },
      {"a", "W_q", "22 groups of 32"});
  expect_error<UnsupportedError>(
      [] { hqq_form(part("b4", "W_q"), part("b3_padded", "scale"), part("b4", "shape"), "a"); },
      {"a", "22 groups", "[16, 64]"});
}

}  // namespace
}  // namespace metal_marlin

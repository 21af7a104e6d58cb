#include "pack/marlin.h"

#include <algorithm>
#include <set>

#include "core/threads.h"
#include "pack/golden.h"

namespace metal_marlin {
namespace {

using test::expect_error;
using test::Golden;
using test::Shape;

QuantizedTensor unpack(const PackedTensor& packed, int64_t group) {
  return unpack_marlin(packed.find("B")->view(), packed.find("s")->view(), group, "p");
}

class MarlinGolden : public testing::TestWithParam<const char*> {
 protected:
  int64_t group() const { return std::string(GetParam()) == "g128" ? 128 : 256; }
  Golden golden_{std::string("marlin_") + GetParam() + ".safetensors"};
};
INSTANTIATE_TEST_SUITE_P(Files, MarlinGolden, testing::Values("g128", "channel"));

// From the logical codes and scales of the file, not through our own unpacking.
TEST_P(MarlinGolden, EqualsTheBytesOfTheReference) {
  const auto codes = golden_.values<uint8_t>("q.codes");      // [in, out]
  const auto scales = golden_.values<uint16_t>("in.scales");  // [groups, out]
  QuantizedTensor t = test::random_tensor(256, 256, group(), true, 1);
  for (int64_t n = 0; n < 256; ++n) {
    for (int64_t k = 0; k < 256; ++k)
      t.codes[static_cast<size_t>(n * 256 + k)] = codes[static_cast<size_t>(k * 256 + n)];
    for (int64_t j = 0; j < t.groups(); ++j)
      t.scales[static_cast<size_t>(n * t.groups() + j)] = scales[static_cast<size_t>(j * 256 + n)];
  }
  const PackedTensor packed = pack_marlin(t, "p");
  ASSERT_EQ(packed.parts.size(), 2u);
  for (const OwnedTensor& part : packed.parts) test::expect_same(part, golden_.get("ref." + part.name));
  test::expect_equal(unpack_marlin(golden_.get("ref.B"), golden_.get("ref.s"), group(), "p"), t);
}

class MarlinShapes : public testing::TestWithParam<Shape> {};
INSTANTIATE_TEST_SUITE_P(Hard, MarlinShapes,
                         testing::Values(Shape{256, 128, 128}, Shape{512, 128, 128}, Shape{256, 384, 128},
                                         Shape{768, 640, 640}, Shape{256, 1152, 128}));

TEST_P(MarlinShapes, RoundTripAndIndexFormula) {
  constexpr int kInterleave[8] = {0, 2, 4, 6, 1, 3, 5, 7};
  const auto [out, in, group] = GetParam();
  const QuantizedTensor t = test::random_tensor(out, in, group, true, 11);
  const PackedTensor packed = pack_marlin(t, "p");
  test::expect_equal(unpack(packed, group), t);
  if (group == in) test::expect_equal(unpack(packed, -1), t);
  const auto* words = reinterpret_cast<const uint32_t*>(packed.find("B")->bytes.data());
  for (int64_t row = 0; row < in / 16; ++row) {
    for (int64_t c = 0; c < 2 * out; ++c) {
      const int64_t h = c / 128;
      const int64_t i = c % 128 / 4;
      const int64_t j = c % 4;
      for (int m = 0; m < 8; ++m) {
        const int e = kInterleave[m];
        const int64_t k = 16 * row + 2 * (i % 4) + (e & 1) + 8 * (e >> 1 & 1);
        const int64_t n = 64 * h + 16 * j + i / 4 + 8 * (e >> 2);
        ASSERT_EQ(words[row * 2 * out + c] >> (4 * m) & 15, t.codes[static_cast<size_t>(n * in + k)]) << n << "," << k;
      }
    }
  }
}

TEST(Marlin, DoesNotDependOnThreads) {
  test::expect_independent_of_threads(test::random_tensor(512, 1024, 128, true, 3),
                                      [](const auto& t) { return pack_marlin(t, "p"); });
}

TEST(MarlinPack, RefusesWhatTheLayoutCannotHold) {
  const auto refused = [](const QuantizedTensor& t, const std::vector<std::string>& texts) {
    expect_error<ArgumentError>([&] { pack_marlin(t, "model.q"); }, texts);
  };
  refused(test::random_tensor(256, 192, 192, true, 1), {"model.q", "192", "128"});
  refused(test::random_tensor(320, 128, 128, true, 1), {"model.q", "320", "256"});
  refused(test::random_tensor(256, 256, 64, true, 1), {"model.q", "group size 64"});
  refused(test::random_tensor(256, 256, 128, false, 1), {"model.q", "zero"});
  QuantizedTensor t = test::random_tensor(256, 128, 128, true, 1);
  t.group_index.assign(128, 0);
  refused(t, {"model.q", "act order"});
  for (const size_t at : {size_t{0}, size_t{77 * 128 + 33}, size_t{255 * 128 + 127}}) {
    t = test::random_tensor(256, 128, 128, true, 1);
    t.codes[at] = 16;
    refused(t, {"model.q", "code is above 15"});
  }
}

TEST(MarlinUnpack, RefusesDamagedParts) {
  PackedTensor packed = pack_marlin(test::random_tensor(256, 256, 128, true, 1), "p");
  const TensorView b = packed.parts[0].view();
  const TensorView s = packed.parts[1].view();
  const auto refused = [&](const TensorView& words, const TensorView& scales, int64_t group,
                           const std::vector<std::string>& texts) {
    expect_error<FormatError>([&] { unpack_marlin(words, scales, group, "model.q"); }, texts);
  };
  const auto shaped = [&](TensorView view, std::vector<int64_t> shape) {
    view.shape = std::move(shape);
    return view;
  };
  refused(shaped(b, {8192}), s, 128, {"model.q", "B", "[8192]"});
  refused(shaped(b, {32, 256}), s, 128, {"model.q", "B", "[32, 256]"});
  refused(shaped(b, {4, 2048}), s, 128, {"model.q", "B", "[4, 2048]"});
  refused(shaped(b, {-16, -512}), s, 128, {"model.q", "B"});
  refused(shaped(b, {16, int64_t{1} << 60}), s, 128, {"model.q", "B"});
  refused(b, shaped(s, {256, 2}), 128, {"model.q", "s", "[2, 256]", "[256, 2]"});
  refused(b, s, 256, {"model.q", "s", "[1, 256]"});
  refused(b, s, 64, {"model.q", "group size 64"});
  refused(b, s, 0, {"model.q", "0"});
  TensorView floats = b;
  floats.dtype = DType::kF32;
  refused(floats, s, 128, {"model.q", "B", "F32"});
  const uint16_t infinity = 0x7c00;
  std::memcpy(packed.parts[1].bytes.data() + 2 * 300, &infinity, 2);
  refused(b, s, 128, {"model.q", "s", "[1, 44]"});
}

}  // namespace
}  // namespace metal_marlin

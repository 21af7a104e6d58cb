#include "formats/npz.h"

#include <zip.h>

#include <algorithm>
#include <cmath>

#include "core/half.h"
#include "formats/support.h"

namespace metal_marlin {
namespace {

using test::check_error;
using test::expect;

float element(int64_t i) {
  return static_cast<float>(i) / 8 - 3;
}  // of the 3 x 4 x 5 arrays in the golden files

std::vector<float> floats(const OwnedTensor& tensor) {
  std::vector<float> out(static_cast<size_t>(tensor.view().elements()));
  convert_to_f32(tensor.view(), out.data());
  return out;
}

class GoldenNpz : public testing::TestWithParam<const char*> {
 protected:
  NpzFile file_{test::data_path(GetParam())};
};
INSTANTIATE_TEST_SUITE_P(Files, GoldenNpz, testing::Values("savez.npz", "deflated.npz"));

TEST_P(GoldenNpz, Names) {
  EXPECT_EQ(file_.names().size(), 21u);
  EXPECT_EQ(file_.names()[0], "model.layers.0.self_attn.q_proj.weight");
  EXPECT_EQ(file_.names()[1], "a/b");
  EXPECT_TRUE(file_.contains("f8"));
  EXPECT_FALSE(file_.contains("f8.npy"));
  check_error(expect<FormatError>({GetParam(), "\"nothing\"", "21 arrays"}), [&] { file_.load("nothing"); });
}

TEST_P(GoldenNpz, FloatsInEveryOrder) {
  for (const char* name :
       {"model.layers.0.self_attn.q_proj.weight", "f2", "f8", "big_f4", "big_f2", "fortran", "fortran_big"}) {
    SCOPED_TRACE(name);
    const OwnedTensor tensor = file_.load(name);
    EXPECT_EQ(tensor.name, name);
    EXPECT_EQ(tensor.shape, (std::vector<int64_t>{3, 4, 5}));
    const std::vector<float> values = floats(tensor);
    for (int64_t i = 0; i < 60; ++i) ASSERT_EQ(values[static_cast<size_t>(i)], element(i)) << i;
  }
  EXPECT_TRUE(file_.header("fortran").fortran_order);
  EXPECT_TRUE(file_.header("big_f4").big_endian);
  EXPECT_EQ(file_.header("f2").dtype, DType::kF16);
}

TEST_P(GoldenNpz, Integers) {
  const auto values = [&](const char* name) { return floats(file_.load(name)); };
  EXPECT_EQ(values("i1"), (std::vector<float>{-4, -3, -2, -1, 0, 1, 2, 3}));
  EXPECT_EQ(values("u1"), (std::vector<float>{0, 1, 2, 3, 4, 5, 6, 7}));
  EXPECT_EQ(values("i2"), (std::vector<float>{-4, -3, -2, -1, 0, 1, 2, 3}));
  EXPECT_EQ(values("u2"), (std::vector<float>{65528, 65529, 65530, 65531, 65532, 65533, 65534, 65535}));
  EXPECT_EQ(values("i4"), (std::vector<float>{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(values("u4"), (std::vector<float>{0x1p31f, 0x1p31f, 0x1p31f}));
  EXPECT_EQ(values("i8"), (std::vector<float>{-0x1p40f, -0x1p40f, -0x1p40f}));
  EXPECT_EQ(values("u8"), (std::vector<float>{0x1p63f, 0x1p63f, 0x1p63f}));
  EXPECT_EQ(values("b1"), (std::vector<float>{1, 0, 1}));
  EXPECT_EQ(values("big_i8").at(59), 59.0f - 24.0f);
  EXPECT_EQ(file_.load("i8").dtype, DType::kI64);
}

TEST_P(GoldenNpz, EdgeShapes) {
  const OwnedTensor scalar = file_.load("scalar");
  EXPECT_TRUE(scalar.shape.empty());
  EXPECT_EQ(floats(scalar), std::vector<float>{2.5f});
  EXPECT_EQ(file_.header("scalar").rows(), 1);
  EXPECT_EQ(file_.load("empty").shape, (std::vector<int64_t>{0, 4}));
  EXPECT_EQ(file_.load("no_columns").shape, (std::vector<int64_t>{4, 0}));
  NpzRows rows = file_.rows("no_columns");
  EXPECT_EQ(rows.remaining(), 4);
  EXPECT_EQ(rows.read(9, nullptr), 4);
  EXPECT_EQ(file_.rows("empty").remaining(), 0);
}

TEST_P(GoldenNpz, RowsInSequence) {
  for (const char* name : {"f2", "f8", "big_f4", "fortran_big"}) {
    SCOPED_TRACE(name);
    NpzRows rows = file_.rows(name);
    EXPECT_EQ(rows.header().columns(), 5);
    EXPECT_EQ(rows.remaining(), 12);
    std::vector<float> out(60, NAN);
    EXPECT_EQ(rows.read(5, out.data()), 5);
    rows.skip(2);
    EXPECT_EQ(rows.read(100, out.data() + 35), 5);
    EXPECT_EQ(rows.read(1, out.data()), 0);
    for (int64_t i = 0; i < 60; ++i) {
      if (i >= 25 && i < 35) continue;
      ASSERT_EQ(out[static_cast<size_t>(i)], element(i)) << i;
    }
    NpzRows again = file_.rows(name);
    check_error(expect<ArgumentError>({name, "12 remain"}), [&] { again.skip(13); });
  }
}

TEST_P(GoldenNpz, RowsAnywhere) {
  std::vector<float> out(10);
  file_.load_rows("f2", 7, 2, out.data());
  for (int64_t i = 0; i < 10; ++i) EXPECT_EQ(out[static_cast<size_t>(i)], element(35 + i));
  check_error(expect<ArgumentError>({"\"f2\"", "of 12"}), [&] { file_.load_rows("f2", 11, 2, out.data()); });
  check_error(expect<ArgumentError>({"\"f2\""}), [&] { file_.load_rows("f2", -1, 2, out.data()); });
}

TEST(Npz, AMemberAboveTheLimitIsReadInRowsOnly) {
  const NpzFile file(test::data_path("deflated.npz"), 200);
  check_error(expect<UnsupportedError>({"\"f8\"", "batches of rows"}), [&] { file.load("f8"); });
  std::vector<float> out(60);
  EXPECT_EQ(file.rows("f8").read(12, out.data()), 12);
}

TEST(Npy, AllVersions) {
  for (const char* name : {"npy_v1.npy", "npy_v2.npy", "npy_v3.npy"}) {
    const OwnedTensor tensor = read_npy(test::data_path(name));
    EXPECT_EQ(tensor.shape, (std::vector<int64_t>{5, 8}));
    const std::vector<float> values = floats(tensor);
    for (size_t i = 0; i < 40; ++i) EXPECT_EQ(values[i], static_cast<float>(i));
  }
}

TEST(Npy, WriterEqualsNumpy) {
  const test::TemporaryFolder folder;
  const OwnedTensor tensor = read_npy(test::data_path("npy_v1.npy"));
  write_npy(folder.path("x.npy"), tensor.view());
  EXPECT_EQ(test::file_content(folder.path("x.npy")), test::file_content(test::data_path("npy_v1.npy")));
}

TEST(NpzWriter, RoundTripOfEveryType) {
  const NpzFile golden(test::data_path("deflated.npz"));
  std::vector<OwnedTensor> arrays;
  for (const std::string& name : golden.names()) arrays.push_back(golden.load(name));
  const test::TemporaryFolder folder;
  write_npz(folder.path("a.npz"), arrays);
  write_npz(folder.path("b.npz"), arrays);
  EXPECT_EQ(test::file_content(folder.path("a.npz")), test::file_content(folder.path("b.npz")));
  const NpzFile back(folder.path("a.npz"));
  EXPECT_EQ(back.names(), golden.names());
  for (const OwnedTensor& array : arrays) {
    SCOPED_TRACE(array.name);
    const OwnedTensor tensor = back.load(array.name);
    EXPECT_EQ(tensor.dtype, array.dtype);
    EXPECT_EQ(tensor.shape, array.shape);
    ASSERT_EQ(tensor.bytes.size(), array.bytes.size());
    const std::span<const std::byte> bytes = tensor.view().bytes;
    EXPECT_TRUE(std::ranges::equal(bytes, array.view().bytes));
  }
  // libzip as a strict second opinion on the headers.
  zip_t* archive = zip_open(folder.path("a.npz").c_str(), ZIP_RDONLY | ZIP_CHECKCONS, nullptr);
  EXPECT_NE(archive, nullptr);
  if (archive != nullptr) zip_discard(archive);
}

TEST(NpzWriter, NoArrays) {
  const test::TemporaryFolder folder;
  write_npz(folder.path("a.npz"), std::span<const TensorView>{});
  EXPECT_TRUE(NpzFile(folder.path("a.npz")).names().empty());
}

TEST(NpzWriter, MoreThan65535Arrays) {
  const test::TemporaryFolder folder;
  std::vector<TensorView> arrays;
  for (int i = 0; i < 66000; ++i) arrays.push_back({"a" + std::to_string(i), DType::kU8, {1}, test::as_bytes("7")});
  write_npz(folder.path("a.npz"), arrays);
  const NpzFile file(folder.path("a.npz"));
  EXPECT_EQ(file.names().size(), 66000u);
  EXPECT_EQ(floats(file.load("a65999")), std::vector<float>{55});
}

TEST(NpzWriter, MoreMembersThanAModelHasAreRefused) {
  const test::TemporaryFolder folder;
  std::vector<TensorView> arrays;
  for (int i = 0; i <= 200'000; ++i) arrays.push_back({"a" + std::to_string(i), DType::kU8, {0}, {}});
  write_npz(folder.path("a.npz"), arrays);
  test::check_error(test::expect<FormatError>({"a.npz", "at most 200000 members, found 200001"}),
                    [&] { NpzFile(folder.path("a.npz")); });
}

TEST(NpzWriter, LargeMemberInRows) {
  const test::TemporaryFolder folder;
  OwnedTensor array{.name = "x", .dtype = DType::kF16, .shape = {2, 700, 1001}, .bytes = Buffer(2 * 2 * 700 * 1001)};
  for (size_t i = 0; i < 2u * 700 * 1001; ++i) {
    const uint16_t half = f32_to_f16(static_cast<float>(i % 2048));
    std::memcpy(array.bytes.data() + 2 * i, &half, 2);
  }
  write_npz(folder.path("a.npz"), std::span(&array, 1));
  const NpzFile file(folder.path("a.npz"));
  NpzRows rows = file.rows("x");
  std::vector<float> batch(333 * 1001);
  int64_t row = 0;
  while (const int64_t n = rows.read(333, batch.data())) {
    for (int64_t i = 0; i < n * 1001; ++i) {
      ASSERT_EQ(batch[static_cast<size_t>(i)], static_cast<float>((row * 1001 + i) % 2048));
    }
    row += n;
  }
  EXPECT_EQ(row, 1400);
}

TEST(NpzWriter, RefusesBadArrays) {
  const test::TemporaryFolder folder;
  const auto write = [&](std::vector<TensorView> arrays) { write_npz(folder.path("a.npz"), arrays); };
  const TensorView good{"a", DType::kU8, {1}, test::as_bytes("7")};
  check_error(expect<ArgumentError>({"a.npz", "duplicate", "\"a\""}), [&] { write({good, good}); });
  check_error(expect<ArgumentError>({"a.npz", "empty"}), [&] { write({{"", DType::kU8, {1}, test::as_bytes("7")}}); });
  check_error(expect<ArgumentError>({"\"h\"", "BF16"}),
              [&] { write({{"h", DType::kBF16, {1}, test::as_bytes("77")}}); });
  check_error(expect<ArgumentError>({"\"s\"", "[2]"}), [&] { write({{"s", DType::kU8, {2}, test::as_bytes("7")}}); });
  EXPECT_TRUE(std::filesystem::is_empty(folder.path("")));
}

TEST(ConvertToF32, BrainAndRefusal) {
  float out[2];
  convert_to_f32({"x", DType::kBF16, {2}, test::as_bytes(std::string_view("\x80\x3f\x00\xc0", 4))}, out);
  EXPECT_EQ(out[0], 1.0f);
  EXPECT_EQ(out[1], -2.0f);
  check_error(expect<UnsupportedError>({"\"x\"", "F8_E4M3"}),
              [&] { convert_to_f32({"x", DType::kF8E4M3, {1}, test::as_bytes("1")}, out); });
}

}  // namespace
}  // namespace metal_marlin

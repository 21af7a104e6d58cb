#include "formats/gguf.h"

#include <array>
#include <cmath>
#include <optional>

#include "core/threads.h"
#include "formats/gguf_builder.h"
#include "formats/support.h"

namespace metal_marlin {
namespace {

using test::check_error;
using test::expect;

TEST(Gguf, ReadsWhatGgufPyWrote) {
  const GgufFile file(test::data_path("container.gguf"));
  const GgufMetadata& m = file.metadata();
  EXPECT_EQ(file.version(), 3u);
  EXPECT_EQ(m.get_string("general.architecture"), "llama");
  EXPECT_EQ(m.get_u64("t.u8"), 200u);
  EXPECT_EQ(m.get_i64("t.i8"), -100);
  EXPECT_EQ(m.get_u64("t.u16"), 60000u);
  EXPECT_EQ(m.get_i64("t.i16"), -30000);
  EXPECT_EQ(m.get_u64("t.u32"), 4000000000u);
  EXPECT_EQ(m.get_i64("t.u32"), 4000000000);
  EXPECT_EQ(m.get_i64("t.i32"), -2000000000);
  EXPECT_EQ(m.get_u64("t.u64"), (uint64_t{1} << 63) + 5);
  EXPECT_EQ(m.get_i64("t.i64"), -(int64_t{1} << 60));
  EXPECT_EQ(m.get_f64("t.f32"), static_cast<double>(0.1f));
  EXPECT_EQ(m.get_f64("t.f64"), 0.1);
  EXPECT_EQ(m.get_f64("t.u8"), 200.0);
  EXPECT_TRUE(m.get_bool("t.bool"));
  EXPECT_EQ(m.get_string("t.string"), "h\xc3\xa9llo");
  EXPECT_EQ(m.get_strings("t.strings"), (std::vector<std::string>{"<s>", "", "\xe4\xb8\xad"}));
  EXPECT_EQ(m.get_ints("t.ints"), (std::vector<int64_t>{1, -2, 3}));
  EXPECT_EQ(m.get_floats("t.floats"), (std::vector<float>{0.5f, -1.25f}));
  EXPECT_EQ(m.find_bools("t.bools"), (std::vector<bool>{true, false, true}));
  EXPECT_EQ(m.find("t.strings")->type_name(), "array of string");

  ASSERT_EQ(file.tensors().size(), 3u);
  const GgufTensor& embedding = file.get("token_embd.weight");
  EXPECT_EQ(embedding.shape, (std::vector<int64_t>{2, 32}));
  EXPECT_EQ(embedding.type, GgmlType::kF32);
  const GgufTensor& q = file.get("blk.0.attn_q.weight");
  EXPECT_EQ(q.type, GgmlType::kQ8_0);
  EXPECT_EQ(q.bytes.size(), 2u * 34);
  std::array<float, 64> exact{};
  std::array<float, 64> rounded{};
  dequantize_rows(embedding, 0, 2, exact.data());
  dequantize_rows(q, 0, 2, rounded.data());
  for (size_t i = 0; i < 64; ++i) {
    EXPECT_EQ(exact[i], (static_cast<float>(i) - 31) / 4);
    EXPECT_NEAR(rounded[i], exact[i], 8.0 / 127 / 2 * 1.01);  // half a step of Q8_0, and the rounding of its scale
  }
  file.release(q);
  EXPECT_EQ(file.find("none"), nullptr);
  check_error(expect<FormatError>({"container.gguf", "\"none\""}), [&] { file.get("none"); });
}

TEST(Gguf, GettersNameFileKeyAndTypes) {
  const GgufFile file(test::data_path("container.gguf"));
  const GgufMetadata& m = file.metadata();
  check_error(expect<FormatError>(
                  {"container.gguf", "\"absent\"", "missing", "expected an integer >= 0", "convert_hf_to_gguf.py"}),
              [&] { m.get_u64("absent"); });
  check_error(expect<FormatError>({"container.gguf", "\"absent\""}), [&] { m.get_strings("absent"); });
  check_error(expect<FormatError>({"container.gguf", "\"absent\""}), [&] { m.get_string("absent"); });
  check_error(expect<FormatError>({"container.gguf", "\"absent\""}), [&] { m.get_f64("absent"); });
  check_error(expect<FormatError>({"container.gguf", "\"absent\""}), [&] { m.get_bool("absent"); });
  check_error(expect<FormatError>({"container.gguf", "\"absent\""}), [&] { m.get_ints("absent"); });
  check_error(expect<FormatError>({"container.gguf", "\"absent\""}), [&] { m.get_floats("absent"); });
  check_error(expect<FormatError>({"container.gguf", "\"absent\""}), [&] { m.get_i64("absent"); });
  check_error(expect<FormatError>({"\"t.i8\"", "integer >= 0", "i8 -100"}), [&] { m.get_u64("t.i8"); });
  check_error(expect<FormatError>({"\"t.u64\"", "2^63", "u64 9223372036854775813"}), [&] { m.get_i64("t.u64"); });
  check_error(expect<FormatError>({"\"t.string\"", "expected a number", "found string", "convert_hf_to_gguf.py"}),
              [&] { m.get_f64("t.string"); });
  check_error(expect<FormatError>({"\"t.u8\"", "expected bool", "found u8"}), [&] { m.get_bool("t.u8"); });
  check_error(expect<FormatError>({"\"t.f32\"", "expected string", "found f32"}), [&] { m.get_string("t.f32"); });
  check_error(expect<FormatError>({"\"t.ints\"", "array of string", "array of i32"}), [&] { m.get_strings("t.ints"); });
  check_error(expect<FormatError>({"\"t.strings\"", "array of integers", "array of string"}),
              [&] { m.get_ints("t.strings"); });
  check_error(expect<FormatError>({"\"t.ints\"", "array of f32"}), [&] { m.get_floats("t.ints"); });
  check_error(expect<FormatError>({"\"t.ints\"", "array of bool"}), [&] { m.find_bools("t.ints"); });
  EXPECT_FALSE(m.find_u64("absent").has_value());
  EXPECT_FALSE(m.find_strings("absent").has_value());
}

TEST(Gguf, AllArrayTypes) {
  using B = test::GgufBuilder;
  B b = test::small_gguf();
  b.pairs.push_back(B::pair("u8", GgufType::kArray, B::array(GgufType::kU8, 2, "\x01\xff")));
  b.pairs.push_back(B::pair("i8", GgufType::kArray, B::array(GgufType::kI8, 2, "\x01\xff")));
  b.pairs.push_back(B::pair("u16", GgufType::kArray, B::array(GgufType::kU16, 1, test::little(uint16_t{65535}))));
  b.pairs.push_back(B::pair("i16", GgufType::kArray, B::array(GgufType::kI16, 1, test::little(int16_t{-1}))));
  b.pairs.push_back(B::pair("u32", GgufType::kArray, B::array(GgufType::kU32, 1, test::little(~uint32_t{0}))));
  b.pairs.push_back(B::pair("u64", GgufType::kArray, B::array(GgufType::kU64, 1, test::little(uint64_t{5}))));
  b.pairs.push_back(B::pair("huge", GgufType::kArray, B::array(GgufType::kU64, 1, test::little(~uint64_t{0}))));
  b.pairs.push_back(B::pair("i64", GgufType::kArray, B::array(GgufType::kI64, 1, test::little(int64_t{-5}))));
  b.pairs.push_back(B::pair("f64", GgufType::kArray, B::array(GgufType::kF64, 1, test::little(0.5))));
  b.pairs.push_back(B::pair("none", GgufType::kArray, B::array(GgufType::kString, 0, "")));
  const std::string bytes = b.bytes();
  const GgufContent content = parse_gguf(test::as_bytes(bytes), "x");
  const GgufMetadata& m = content.metadata;
  EXPECT_EQ(m.get_ints("u8"), (std::vector<int64_t>{1, 255}));
  EXPECT_EQ(m.get_ints("i8"), (std::vector<int64_t>{1, -1}));
  EXPECT_EQ(m.get_ints("u16"), (std::vector<int64_t>{65535}));
  EXPECT_EQ(m.get_ints("i16"), (std::vector<int64_t>{-1}));
  EXPECT_EQ(m.get_ints("u32"), (std::vector<int64_t>{4294967295}));
  EXPECT_EQ(m.get_ints("u64"), (std::vector<int64_t>{5}));
  EXPECT_EQ(m.get_ints("i64"), (std::vector<int64_t>{-5}));
  EXPECT_EQ(m.get_floats("f64"), (std::vector<float>{0.5f}));
  EXPECT_TRUE(m.get_strings("none").empty());
  check_error(expect<FormatError>({"\"huge\""}), [&] { m.get_ints("huge"); });
}

// What is held of a header is bounded by counts, before memory is taken: a sparse file holds any number of zeros.
TEST(Gguf, CountsAndTextsOfAHeaderAreBounded) {
  using B = test::GgufBuilder;
  const auto refused = [](const B& b, size_t zeros, std::vector<std::string> words) {
    const std::string bytes = b.head() + std::string(zeros, '\0');
    check_error(expect<FormatError>(std::move(words)), [&] { parse_gguf(test::as_bytes(bytes), "x"); });
  };
  B many_tensors = test::small_gguf();
  many_tensors.tensor_count = 200'001;
  refused(many_tensors, 6 << 20, {"x", "at most 200000 tensors", "200001"});
  B many_keys = test::small_gguf();
  many_keys.pair_count = 65'537;
  refused(many_keys, 2 << 20, {"x", "at most 65536 keys", "65537"});
  B long_text = test::small_gguf();
  for (const char* key : {"c", "d", "e"})
    long_text.pairs.push_back(B::pair(key, GgufType::kString, B::text(std::string(30 << 20, 'a'))));
  refused(long_text, 0, {"x", "key \"e\"", "64 MiB"});
}

// Strings as well stay in the file; too many are refused where they are asked for.
TEST(Gguf, StringsOfArraysLieInTheFile) {
  using B = test::GgufBuilder;
  B b = test::small_gguf();
  const uint64_t count = (uint64_t{1} << 21) + 1;
  b.pairs.push_back(
      B::pair("empty", GgufType::kArray, B::array(GgufType::kString, count, std::string(count * 8, '\0'))));
  b.pairs.push_back(B::pair("bytes", GgufType::kArray, B::array(GgufType::kU8, count, std::string(count, '\0'))));
  const std::string bytes = b.bytes();
  const GgufContent content = parse_gguf(test::as_bytes(bytes), "x");
  EXPECT_EQ(std::get<GgufStrings>(content.metadata.find("empty")->value).count, count);
  check_error(expect<FormatError>({"x", "\"empty\"", "at most 2097152 elements", "2097153"}),
              [&] { content.metadata.get_strings("empty"); });
  check_error(expect<FormatError>({"x", "\"bytes\"", "at most 2097152 elements"}),
              [&] { content.metadata.get_ints("bytes"); });
  B cut = test::small_gguf();
  cut.pairs.push_back(
      B::pair("s", GgufType::kArray, B::array(GgufType::kString, 2, B::text("a") + test::little(uint64_t{1} << 40))));
  const std::string damaged = cut.bytes();
  check_error(expect<FormatError>({"x", "\"s\""}), [&] { parse_gguf(test::as_bytes(damaged), "x"); });
}

// Numbers stay in the file until somebody asks: an array of bytes takes no memory of its own.
TEST(Gguf, NumbersOfArraysLieInTheFile) {
  using B = test::GgufBuilder;
  B b = test::small_gguf();
  b.pairs.push_back(B::pair("u8", GgufType::kArray, B::array(GgufType::kU8, 3, "abc")));
  const std::string bytes = b.bytes();
  const GgufContent content = parse_gguf(test::as_bytes(bytes), "x");
  const auto& numbers = std::get<GgufNumbers>(content.metadata.find("u8")->value);
  EXPECT_EQ(numbers.count, 3u);
  EXPECT_EQ(static_cast<const void*>(numbers.bytes.data()), bytes.data() + bytes.find("abc"));
  EXPECT_EQ(content.metadata.get_ints("u8"), (std::vector<int64_t>{'a', 'b', 'c'}));
}

TEST(Gguf, VersionTwoAlignmentAndShapes) {
  using B = test::GgufBuilder;
  B b;
  b.version = 2;
  b.alignment = 64;
  b.pairs = {B::pair("general.alignment", GgufType::kU32, test::little(uint32_t{64}))};
  b.infos = {B::info("scalar", {}, 0, 0), B::info("empty", {32, 0}, 8, 64), B::info("deep", {2, 3, 4, 5}, 1, 64)};
  b.data = std::string(64 + 240, '\0');  // the last tensor's padding may be missing
  const std::string bytes = b.bytes();
  const GgufContent content = parse_gguf(test::as_bytes(bytes), "x");
  EXPECT_EQ(content.version, 2u);
  EXPECT_EQ(content.alignment, 64u);
  EXPECT_EQ(content.tensors[0].elements(), 1);
  EXPECT_EQ(content.tensors[0].bytes.size(), 4u);
  EXPECT_EQ(content.tensors[1].bytes.size(), 0u);
  EXPECT_EQ(content.tensors[2].shape, (std::vector<int64_t>{5, 4, 3, 2}));
  EXPECT_EQ(content.tensors[2].row_bytes(), 4);
}

TEST(Gguf, NoTensorsNeedNoPadding) {
  test::GgufBuilder b;
  const std::string bytes = b.head();
  EXPECT_TRUE(parse_gguf(test::as_bytes(bytes), "x").tensors.empty());
}

TEST(Gguf, DequantizeRowsChecksItsRange) {
  const std::string bytes = test::small_gguf().bytes();
  const GgufContent content = parse_gguf(test::as_bytes(bytes), "x");
  float out[8];
  EXPECT_NO_THROW(dequantize_rows(content.tensors[0], 1, 1, out));
  check_error(expect<ArgumentError>({"\"a\"", "of 2"}), [&] { dequantize_rows(content.tensors[0], 1, 2, out); });
  check_error(expect<ArgumentError>({"\"a\""}), [&] { dequantize_rows(content.tensors[0], -1, 1, out); });
}

TEST(Gguf, DequantizeRowsDoesNotDependOnThreads) {
  test::GgufBuilder b;
  b.infos = {test::GgufBuilder::info("w", {256, 1000}, 14, 0)};
  b.data = std::string(1000 * 210, '\0');
  for (size_t i = 0; i < b.data.size(); ++i) b.data[i] = static_cast<char>(i % 210 == 209 ? 0x2c : i * 37 % 256);
  const std::string bytes = b.bytes();
  const GgufContent content = parse_gguf(test::as_bytes(bytes), "x");
  std::vector<float> one(256000);
  std::vector<float> four(256000);
  std::optional<ThreadCount> thread_count;
  thread_count.emplace(1);
  dequantize_rows(content.tensors[0], 0, 1000, one.data());
  thread_count.emplace(4);
  dequantize_rows(content.tensors[0], 0, 1000, four.data());
  thread_count.reset();
  EXPECT_EQ(std::memcmp(one.data(), four.data(), one.size() * sizeof(float)), 0);
  std::vector<float> part(256 * 3);
  dequantize_rows(content.tensors[0], 500, 3, part.data());
  EXPECT_EQ(std::memcmp(part.data(), one.data() + 500 * 256, part.size() * sizeof(float)), 0);
}

}  // namespace
}  // namespace metal_marlin

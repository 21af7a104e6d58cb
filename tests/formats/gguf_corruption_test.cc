#include "formats/gguf.h"
#include "formats/gguf_builder.h"
#include "formats/support.h"

namespace metal_marlin {
namespace {

using test::Corruption;
using test::expect;
using B = test::GgufBuilder;

class GgufCorruption : public testing::TestWithParam<Corruption> {};

TEST_P(GgufCorruption, IsRefused) {
  test::check_error(GetParam().expected, [&] { parse_gguf(test::as_bytes(GetParam().bytes), "bad.gguf"); });
}

// Whoever reads it wants to know what to do.
TEST_P(GgufCorruption, NamesTheCure) {
  try {
    parse_gguf(test::as_bytes(GetParam().bytes), "bad.gguf");
    ADD_FAILURE() << "accepted";
  } catch (const Error& e) {
    const std::string text = e.what();
    const bool cure = text.find("again") != std::string::npos || text.find("re-export") != std::string::npos ||
                      text.find("convert it") != std::string::npos;
    EXPECT_TRUE(cure) << text;
  }
}

TEST(GgufCorruptionBase, UndamagedIsRead) {
  const std::string bytes = test::small_gguf().bytes();
  EXPECT_EQ(parse_gguf(test::as_bytes(bytes), "good").tensors.size(), 2u);
}

// Whatever the place of the cut, nothing but a FormatError that names the file.
TEST(GgufCorruptionBase, EveryPrefixIsRefused) {
  const std::string bytes = test::small_gguf().bytes();
  const size_t needed = bytes.size() - 30;  // the last tensor is 34 bytes in a padded 64
  for (size_t n = 0; n < needed; ++n) {
    SCOPED_TRACE(n);
    test::check_error(expect<FormatError>({"bad.gguf"}),
                      [&] { parse_gguf(test::as_bytes(std::string_view(bytes).substr(0, n)), "bad.gguf"); });
  }
  EXPECT_NO_THROW(parse_gguf(test::as_bytes(std::string_view(bytes).substr(0, needed)), "good"));
}

template <typename Change>
std::string changed(Change change) {
  B b = test::small_gguf();
  change(b);
  return b.bytes();
}
std::string with_pair(const std::string& pair) {
  return changed([&](B& b) { b.pairs.push_back(pair); });
}
std::string with_first_info(const std::string& info) {
  return changed([&](B& b) { b.infos[0] = info; });
}
std::string big_endian_head() {
  return std::string("GGUF\0\0\0\3", 8) + std::string(64, '\0');
}

INSTANTIATE_TEST_SUITE_P(
    Header, GgufCorruption,
    testing::Values(Corruption{"empty_file", "", expect<FormatError>({"bad.gguf", "GGUF"})},
                    Corruption{"bad_magic", changed([](B& b) { b.magic = "GGML"; }),
                               expect<FormatError>({"bad.gguf", "no GGUF file"})},
                    Corruption{"bad_version_0", changed([](B& b) { b.version = 0; }),
                               expect<FormatError>({"bad.gguf", "version 0"})},
                    Corruption{"bad_version_1", changed([](B& b) { b.version = 1; }),
                               expect<UnsupportedError>({"bad.gguf", "version 1"})},
                    Corruption{"bad_version_future", changed([](B& b) { b.version = 4; }),
                               expect<UnsupportedError>({"bad.gguf", "version 4"})},
                    Corruption{"big_endian", big_endian_head(), expect<UnsupportedError>({"bad.gguf", "big-endian"})},
                    Corruption{"bad_n_tensors", changed([](B& b) { b.tensor_count = int64_t{1} << 60; }),
                               expect<FormatError>({"bad.gguf", "tensors cannot fit"})},
                    Corruption{"bad_n_kv", changed([](B& b) { b.pair_count = int64_t{1} << 60; }),
                               expect<FormatError>({"bad.gguf", "pairs cannot fit"})},
                    Corruption{"n_kv_one_too_many", changed([](B& b) { b.pair_count = 3; }),
                               expect<FormatError>({"bad.gguf"})},
                    Corruption{"n_tensors_one_too_many", changed([](B& b) { b.tensor_count = 3; }),
                               expect<FormatError>({"bad.gguf", "tensor 2"})}),
    test::corruption_name);

INSTANTIATE_TEST_SUITE_P(
    Pairs, GgufCorruption,
    testing::Values(
        Corruption{"bad_key_size", with_pair(test::little(~uint64_t{0})),
                   expect<FormatError>({"pair 2", "key of 18446744073709551615"})},
        Corruption{"key_past_end", with_pair(test::little(uint64_t{100000})),
                   expect<FormatError>({"pair 2", "100000"})},
        Corruption{"empty_key", with_pair(B::pair("", GgufType::kU8, "1")),
                   expect<FormatError>({"pair 2", "empty key"})},
        Corruption{"duplicate_key", with_pair(B::pair("n", GgufType::kU8, "1")),
                   expect<FormatError>({"\"n\"", "duplicate"})},
        Corruption{"bad_type", with_pair(B::pair("k", static_cast<GgufType>(13), "")),
                   expect<FormatError>({"\"k\"", "type 13"})},
        Corruption{"bad_type_huge", with_pair(B::pair("k", static_cast<GgufType>(~0u), "")),
                   expect<FormatError>({"\"k\"", "4294967295"})},
        Corruption{"bad_string_size", with_pair(B::pair("k", GgufType::kString, test::little((uint64_t{1} << 30) + 1))),
                   expect<FormatError>({"\"k\"", "1073741825"})},
        Corruption{"string_past_end", with_pair(B::pair("k", GgufType::kString, test::little(uint64_t{1} << 29))),
                   expect<FormatError>({"\"k\"", "536870912"})},
        Corruption{"array_of_arrays", with_pair(B::pair("k", GgufType::kArray, B::array(GgufType::kArray, 1, ""))),
                   expect<FormatError>({"\"k\"", "array of arrays"})},
        Corruption{"bad_array_type",
                   with_pair(B::pair("k", GgufType::kArray, B::array(static_cast<GgufType>(99), 1, ""))),
                   expect<FormatError>({"\"k\"", "type 99"})},
        Corruption{"bad_array_size",
                   with_pair(B::pair("k", GgufType::kArray, B::array(GgufType::kU8, ~uint64_t{0}, ""))),
                   expect<FormatError>({"\"k\"", "18446744073709551615"})},
        Corruption{"array_size_wraps",
                   with_pair(B::pair("k", GgufType::kArray, B::array(GgufType::kF64, uint64_t{1} << 29, ""))),
                   expect<FormatError>({"\"k\"", "536870912"})},
        Corruption{"string_array_past_end",
                   with_pair(B::pair("k", GgufType::kArray, B::array(GgufType::kString, 1 << 20, ""))),
                   expect<FormatError>({"\"k\"", "1048576 strings"})},
        Corruption{"string_in_array_past_end",
                   with_pair(B::pair("k", GgufType::kArray,
                                     B::array(GgufType::kString, 2, B::text("x") + test::little(uint64_t{1} << 20)))),
                   expect<FormatError>({"\"k\"", "1048576"})},
        Corruption{"alignment_zero", with_pair(B::pair("general.alignment", GgufType::kU32, test::little(uint32_t{0}))),
                   expect<FormatError>({"general.alignment", "power of two"})},
        Corruption{"alignment_not_power_of_two",
                   with_pair(B::pair("general.alignment", GgufType::kU32, test::little(uint32_t{33}))),
                   expect<FormatError>({"general.alignment", "33"})},
        Corruption{"alignment_wrong_type",
                   with_pair(B::pair("general.alignment", GgufType::kU64, test::little(uint64_t{32}))),
                   expect<FormatError>({"general.alignment", "expected u32", "u64"})},
        Corruption{"alignment_past_end",
                   with_pair(B::pair("general.alignment", GgufType::kU32, test::little(uint32_t{1} << 31))),
                   expect<FormatError>({"\"a\"", "0 bytes of data"})}),
    test::corruption_name);

INSTANTIATE_TEST_SUITE_P(
    Tensors, GgufCorruption,
    testing::Values(
        Corruption{"bad_name_size", with_first_info(test::little(~uint64_t{0})),
                   expect<FormatError>({"tensor 0", "name"})},
        Corruption{"name_too_long", with_first_info(B::info(std::string(64, 'x'), {4, 2}, 0, 0)),
                   expect<FormatError>({"xxx", "64 bytes"})},
        Corruption{"name_empty", with_first_info(B::info("", {4, 2}, 0, 0)),
                   expect<FormatError>({"tensor", "empty name"})},
        Corruption{"duplicate_name", with_first_info(B::info("b", {4, 2}, 0, 0)),
                   expect<FormatError>({"\"b\"", "duplicate name"})},
        Corruption{"bad_n_dims", with_first_info(B::info("a", {4, 2, 1, 1, 1}, 0, 0)),
                   expect<FormatError>({"\"a\"", "5 dimensions"})},
        Corruption{"negative_dimension", with_first_info(B::info("a", {4, -2}, 0, 0)),
                   expect<FormatError>({"\"a\"", "-2"})},
        Corruption{"dimensions_overflow",
                   with_first_info(B::info("a", {int64_t{1} << 31, int64_t{1} << 31, int64_t{1} << 31}, 0, 0)),
                   expect<FormatError>({"\"a\"", "overflow"})},
        Corruption{"bytes_overflow", with_first_info(B::info("a", {int64_t{1} << 61, 2}, 28, 0)),
                   expect<FormatError>({"\"a\""})},
        Corruption{"unknown_type", with_first_info(B::info("a", {4, 2}, 4, 0)),
                   expect<UnsupportedError>({"bad.gguf", "\"a\"", "type 4"})},
        Corruption{"unknown_type_huge", with_first_info(B::info("a", {4, 2}, ~0u, 0)),
                   expect<UnsupportedError>({"\"a\"", "4294967295"})},
        Corruption{"row_not_whole_blocks", with_first_info(B::info("a", {33, 2}, 8, 0)),
                   expect<FormatError>({"\"a\"", "33", "multiple of 32"})},
        Corruption{"k_row_not_whole_blocks", with_first_info(B::info("a", {128, 2}, 12, 0)),
                   expect<FormatError>({"\"a\"", "multiple of 256"})},
        Corruption{"offset_not_zero", with_first_info(B::info("a", {4, 2}, 0, 32)),
                   expect<FormatError>({"\"a\"", "expected the offset 0, found 32"})},
        Corruption{"offset_overlaps", changed([](B& b) { b.infos[1] = B::info("b", {32, 1}, 8, 0); }),
                   expect<FormatError>({"\"b\"", "expected the offset 32, found 0"})},
        Corruption{"offset_leaves_a_hole", changed([](B& b) { b.infos[1] = B::info("b", {32, 1}, 8, 64); }),
                   expect<FormatError>({"\"b\"", "expected the offset 32, found 64"})},
        Corruption{"offset_not_aligned", changed([](B& b) { b.infos[1] = B::info("b", {32, 1}, 8, 33); }),
                   expect<FormatError>({"\"b\"", "offset 32, found 33"})},
        Corruption{"offset_huge", changed([](B& b) { b.infos[1] = B::info("b", {32, 1}, 8, ~uint64_t{0} - 31); }),
                   expect<FormatError>({"\"b\"", "expected the offset 32"})},
        Corruption{"no_data", changed([](B& b) { b.data.clear(); }), expect<FormatError>({"\"a\"", "0 bytes of data"})},
        Corruption{"data_one_byte_short", changed([](B& b) { b.data.resize(32 + 33); }),
                   expect<FormatError>({"\"b\"", "65 bytes of data"})}),
    test::corruption_name);

}  // namespace
}  // namespace metal_marlin

#include <algorithm>

#include "formats/safetensors.h"
#include "formats/support.h"
#include "formats/tensor_bounds.h"

namespace metal_marlin {
namespace {

using test::Corruption;
using test::expect;

std::string file(const std::string& header, const std::string& data = std::string(8, '\0')) {
  return test::little(static_cast<uint64_t>(header.size())) + header + data;
}
const std::string kGood = R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]})";

class SafetensorsCorruption : public testing::TestWithParam<Corruption> {};

TEST_P(SafetensorsCorruption, IsRefused) {
  test::check_error(GetParam().expected,
                    [&] { parse_safetensors(test::as_bytes(GetParam().bytes), "bad.safetensors"); });
}

TEST(SafetensorsCorruptionBase, UndamagedIsRead) {
  EXPECT_EQ(parse_safetensors(test::as_bytes(file("{" + kGood + "}")), "good").tensors.size(), 1u);
  // An ignored field may hold anything, nested deep: it must not cost stack.
  const std::string deep(100000, '[');
  std::string back = deep;
  std::replace(back.begin(), back.end(), '[', ']');
  const std::string nested =
      R"({"a":{"x":)" + deep + back + R"(,"dtype":"F32","y":{"dtype":1},"shape":[2],"data_offsets":[0,8]}})";
  EXPECT_EQ(parse_safetensors(test::as_bytes(file(nested)), "good").tensors.size(), 1u);
}

// A header of many small entries takes time and memory beyond its size.
TEST(SafetensorsBounds, CountsAreBounded) {
  const auto header = [](size_t tensors) {
    std::string text = "{";
    for (size_t i = 0; i < tensors; ++i)
      text += "\"t" + std::to_string(i) + "\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]},";
    text.back() = '}';
    return file(text, "");
  };
  EXPECT_EQ(parse_safetensors(test::as_bytes(header(1000)), "x").tensors.size(), 1000U);
  test::check_error(expect<FormatError>({"x", "at most 200000 tensors"}),
                    [&] { parse_safetensors(test::as_bytes(header(kMostTensors + 1)), "x"); });
  const auto shape = [](const std::string& dimensions) {
    return file(R"({"a":{"dtype":"F32","data_offsets":[0,8],"shape":[2)" + dimensions + "]}}");
  };
  EXPECT_EQ(parse_safetensors(test::as_bytes(shape(",1,1,1,1,1,1,1")), "x").tensors[0].shape.size(), 8U);
  test::check_error(expect<FormatError>({"x", "\"a\"", "shape", "at most 8 dimensions"}),
                    [&] { parse_safetensors(test::as_bytes(shape(",1,1,1,1,1,1,1,1")), "x"); });
  const std::string long_header((size_t{32} << 20) + 1, ' ');
  test::check_error(expect<FormatError>({"x", "33554433 bytes", "at most 33554432"}),
                    [&] { parse_safetensors(test::as_bytes(file(long_header)), "x"); });
  std::string index = R"({"weight_map":{)";
  for (size_t i = 0; i <= kMostTensors; ++i) index += "\"t" + std::to_string(i) + "\":\"f\",";
  index.back() = '}';
  test::check_error(expect<FormatError>({"x", "weight_map", "at most 200000 tensors"}),
                    [&] { parse_index(index + "}", "x"); });
}

INSTANTIATE_TEST_SUITE_P(
    Named, SafetensorsCorruption,
    testing::Values(
        Corruption{"empty_file", "", expect<FormatError>({"bad.safetensors", "0 bytes"})},
        Corruption{"seven_bytes", "\1\2\3\4\5\6\7", expect<FormatError>({"bad.safetensors", "7 bytes"})},
        Corruption{"header_length_all_ones", std::string(8, '\xff') + "{}",
                   expect<FormatError>({"18446744073709551615"})},
        Corruption{"header_length_past_end", test::little(uint64_t{3}) + "{}", expect<FormatError>({"cut off"})},
        Corruption{"empty_header", test::little(uint64_t{0}), expect<FormatError>({"no valid JSON"})},
        Corruption{"zero_byte_after_object", file("{" + kGood + "}" + std::string(1, '\0')),
                   expect<FormatError>({"zero byte"})},
        Corruption{"zero_byte_then_text", file("{}" + std::string(1, '\0') + "garbage", ""),
                   expect<FormatError>({"zero byte"})},
        Corruption{"byte_order_mark", file("\xEF\xBB\xBF{" + kGood + "}"), expect<FormatError>({"byte order mark"})},
        Corruption{"two_values", file("{}{}", ""), expect<FormatError>({"no valid JSON"})},
        Corruption{"header_cut_in_string", file(R"({"a)", ""), expect<FormatError>({"no valid JSON"})},
        Corruption{"trailing_comma", file("{" + kGood + ",}"), expect<FormatError>({"no valid JSON"})},
        Corruption{"lone_surrogate", file(R"({"\ud800":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})"),
                   expect<FormatError>({"no valid JSON"})},
        Corruption{"root_is_a_string", file(R"("a")"), expect<FormatError>({"a string", "JSON object"})},
        Corruption{"root_is_null", file("null"), expect<FormatError>({"null", "JSON object"})},
        Corruption{"entry_is_a_number", file(R"({"a":1})"), expect<FormatError>({"\"a\"", "a number"})},
        Corruption{"entry_is_null", file(R"({"a":null})"), expect<FormatError>({"\"a\"", "null"})},
        Corruption{"entry_is_an_array", file(R"({"a":["F32",[2],[0,8]]})"), expect<FormatError>({"\"a\"", "an array"})},
        Corruption{"dtype_is_a_number", file(R"({"a":{"dtype":1,"shape":[2],"data_offsets":[0,8]}})"),
                   expect<FormatError>({"\"a\"", "dtype"})},
        Corruption{"dtype_missing", file(R"({"a":{"shape":[2],"data_offsets":[0,8]}})"),
                   expect<FormatError>({"\"a\"", "dtype"})},
        Corruption{"dtype_twice", file(R"({"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}})"),
                   expect<FormatError>({"\"a\"", "duplicate", "dtype"})},
        Corruption{"dtype_misspelt", file(R"({"a":{"dtype":"FP32","shape":[2],"data_offsets":[0,8]}})"),
                   expect<FormatError>({"\"a\"", "FP32"})},
        Corruption{"dtype_sub_byte", file(R"({"a":{"dtype":"F6_E2M3","shape":[2],"data_offsets":[0,8]}})"),
                   expect<UnsupportedError>({"\"a\"", "F6_E2M3"})},
        Corruption{"shape_is_a_number", file(R"({"a":{"dtype":"F32","shape":2,"data_offsets":[0,8]}})"),
                   expect<FormatError>({"\"a\"", "shape"})},
        Corruption{"shape_holds_a_string", file(R"({"a":{"dtype":"F32","shape":["2"],"data_offsets":[0,8]}})"),
                   expect<FormatError>({"\"a\"", "shape"})},
        Corruption{"shape_nested", file(R"({"a":{"dtype":"F32","shape":[[2]],"data_offsets":[0,8]}})"),
                   expect<FormatError>({"\"a\"", "shape"})},
        Corruption{"shape_above_int64",
                   file(R"({"a":{"dtype":"F32","shape":[0,9223372036854775808],"data_offsets":[0,0]}})", ""),
                   expect<FormatError>({"\"a\"", "9223372036854775808"})},
        Corruption{"shape_wraps_to_the_size",
                   file(R"({"a":{"dtype":"F32","shape":[4611686018427387906],"data_offsets":[0,8]}})"),
                   expect<FormatError>({"\"a\"", "2^63"})},
        Corruption{"offsets_one", file(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8]}})"),
                   expect<FormatError>({"\"a\"", "data_offsets"})},
        Corruption{"offsets_three", file(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8,8]}})"),
                   expect<FormatError>({"\"a\"", "data_offsets"})},
        Corruption{"offsets_negative", file(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[-8,0]}})"),
                   expect<FormatError>({"\"a\"", "-8"})},
        Corruption{
            "offsets_huge",
            file(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[18446744073709551608,18446744073709551615]}})"),
            expect<FormatError>({"\"a\"", "18446744073709551615"})},
        Corruption{"offsets_twice",
                   file(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"data_offsets":[0,8]}})"),
                   expect<FormatError>({"\"a\"", "duplicate"})},
        Corruption{"same_bytes_twice", file("{" + kGood + R"(,"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})"),
                   expect<FormatError>({"\"b\"", "overlap"})},
        Corruption{
            "duplicate_tensor_elsewhere",
            file("{" + kGood + R"(,"a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}})", std::string(16, '\0')),
            expect<FormatError>({"duplicate", "\"a\""})},
        Corruption{"metadata_twice", file(R"({"__metadata__":{},"__metadata__":{},)" + kGood + "}"),
                   expect<FormatError>({"duplicate", "__metadata__"})},
        Corruption{"metadata_key_twice", file(R"({"__metadata__":{"k":"1","k":"2"},)" + kGood + "}"),
                   expect<FormatError>({"duplicate", "\"k\""})},
        Corruption{"metadata_is_an_array", file(R"({"__metadata__":[],)" + kGood + "}"),
                   expect<FormatError>({"__metadata__"})},
        Corruption{"metadata_nested", file(R"({"__metadata__":{"k":{"x":"y"}},)" + kGood + "}"),
                   expect<FormatError>({"\"k\""})},
        Corruption{"data_missing", file("{" + kGood + "}", ""), expect<FormatError>({"\"a\"", "0 bytes of data"})},
        Corruption{"data_one_byte_more", file("{" + kGood + "}", std::string(9, '\0')),
                   expect<FormatError>({"9 bytes"})},
        Corruption{"name_with_controls", file(R"({"a\u001b[31m":1})"), expect<FormatError>({"\"a\\x1b[31m\""})}),
    test::corruption_name);

class IndexCorruption : public testing::TestWithParam<Corruption> {};

TEST_P(IndexCorruption, IsRefused) {
  test::check_error(GetParam().expected, [&] { parse_index(GetParam().bytes, "bad.json"); });
}

TEST(IndexCorruptionBase, UndamagedIsRead) {
  const auto index =
      parse_index(R"({"metadata":{"total_size":8.0,"other":[{}]},"weight_map":{"a":"x"},"more":{"b":1}})", "good");
  EXPECT_EQ(index.total_size, 8u);
  EXPECT_EQ(index.weight_map.at("a"), "x");
  EXPECT_FALSE(parse_index(R"({"metadata":null,"weight_map":{}})", "good").total_size.has_value());
}

INSTANTIATE_TEST_SUITE_P(
    Named, IndexCorruption,
    testing::Values(
        Corruption{"empty", "", expect<FormatError>({"bad.json"})},
        Corruption{"no_map", "{}", expect<FormatError>({"bad.json", "weight_map"})},
        Corruption{"root_is_an_array", "[]", expect<FormatError>({"bad.json", "JSON object"})},
        Corruption{"map_is_an_array", R"({"weight_map":[]})", expect<FormatError>({"weight_map"})},
        Corruption{"map_twice", R"({"weight_map":{},"weight_map":{}})",
                   expect<FormatError>({"duplicate", "weight_map"})},
        Corruption{"tensor_twice", R"({"weight_map":{"a":"x","a":"x"}})", expect<FormatError>({"duplicate", "\"a\""})},
        Corruption{"file_is_a_number", R"({"weight_map":{"a":1}})", expect<FormatError>({"\"a\""})},
        Corruption{"file_absolute", R"({"weight_map":{"a":"/etc/passwd"}})", expect<FormatError>({"\"a\"", "passwd"})},
        Corruption{"file_in_parent", R"({"weight_map":{"a":"..\u002fx"}})", expect<FormatError>({"\"a\"", "../x"})},
        Corruption{"file_is_parent", R"({"weight_map":{"a":".."}})", expect<FormatError>({"\"a\"", "plain"})},
        Corruption{"file_with_backslash", R"({"weight_map":{"a":"b\\c"}})", expect<FormatError>({"\"a\"", "plain"})},
        Corruption{"file_with_zero", R"({"weight_map":{"a":"b\u0000c"}})", expect<FormatError>({"\"a\"", "plain"})},
        Corruption{"file_empty", R"({"weight_map":{"a":""}})", expect<FormatError>({"\"a\"", "plain"})},
        Corruption{"size_negative", R"({"metadata":{"total_size":-1},"weight_map":{}})",
                   expect<FormatError>({"total_size"})},
        Corruption{"size_is_a_string", R"({"metadata":{"total_size":"1"},"weight_map":{}})",
                   expect<FormatError>({"total_size"})}),
    test::corruption_name);

}  // namespace
}  // namespace metal_marlin

#include "formats/json/json_bounds.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include <nlohmann/json.hpp>
#include <string>

#include "formats/json/bounded_json.h"

namespace metal_marlin {
namespace {

std::string excess(const std::string& text, const JsonBounds& bounds) {
  const auto found = json_excess(text, bounds);
  return found ? found->key + "|" + found->bound : "none";
}

TEST(JsonBounds, Depth) {
  EXPECT_EQ(excess("[[]]", {.depth = 2}), "none");
  EXPECT_EQ(excess("[[[]]]", {.depth = 2}), "|2 levels of nesting");
  EXPECT_EQ(excess(R"({"a": 1, "b": {"c": []}})", {.depth = 2}), "b|2 levels of nesting");
  EXPECT_EQ(excess(R"("[[[[")", {.depth = 0}), "none");
  EXPECT_EQ(excess(std::string(1'000'000, '['), {}), "|64 levels of nesting");
}

TEST(JsonBounds, Values) {
  EXPECT_EQ(excess("7", {.values = 1}), "none");
  EXPECT_EQ(excess("7", {.values = 0}), "|0 values");
  // The array, true, null, the object, -1.5, "s".
  EXPECT_EQ(excess(R"([true, null, {"k": -1.5}, "s"])", {.values = 6}), "none");
  EXPECT_EQ(excess(R"([true, null, {"k": -1.5}, "s"])", {.values = 5}), "|5 values");
}

TEST(JsonBounds, KeysOfOneObject) {
  EXPECT_EQ(excess(R"({"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 2}})", {.keys = 2}), "none");
  EXPECT_EQ(excess(R"({"a": {"x": 1, "y": 2}, "b": {"x": 1, "x": 2, "x": 3}})", {.keys = 2}), "b|2 keys in an object");
}

// What is wrong in a text is the parser's to say.
TEST(JsonBounds, TextsThatAreNoJson) {
  for (const char* text : {"", "{", "[1,]", "{\"a\" 1}", "nul", "\xff", "1e999"})
    EXPECT_EQ(excess(text, {}), "none") << text;
}

TEST(JsonBounds, ValuesThatAreBuiltAreBounded) {
  std::string text = "[0";
  for (int i = 0; i < 4'000'000; ++i) text += ",0";
  text += "]";
  EXPECT_THROW(parse_json(text, "x.json"), FormatError);
  EXPECT_TRUE(parse_json_or_discard(text).is_discarded());
}

TEST(JsonBounds, ANulByteDoesNotEndAText) {
  using namespace std::string_literals;
  for (const std::string& text : {"4\0x"s, "{}\0"s, "[1,\0 2]"s, "\"a\0b\""s}) {
    EXPECT_TRUE(parse_json_or_discard(text).is_discarded()) << text;
    EXPECT_TRUE(parse_ordered_json_or_discard(text).is_discarded()) << text;
    EXPECT_THROW(parse_json(text, "x.json"), FormatError) << text;
  }
}

}  // namespace
}  // namespace metal_marlin

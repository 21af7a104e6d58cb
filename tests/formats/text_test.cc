#include "formats/text.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "formats/terminal_json.h"
#include "formats/terminal_text.h"

namespace metal_marlin {
namespace {

TEST(Text, WhatSteersATerminalIsEscaped) {
  const std::pair<std::string, std::string> cases[] = {
      {"model.norm.weight", "model.norm.weight"},
      {"caf\xC3\xA9 \xE6\xBC\xA2 \xF0\x9F\x98\x80", "caf\xC3\xA9 \xE6\xBC\xA2 \xF0\x9F\x98\x80"},
      {"\x1b]0;PWNED\x07", "\\x1b]0;PWNED\\x07"},
      {"a\r\nb\tc", "a\\r\\nb\\tc"},
      {std::string("a\0b", 3), "a\\x00b"},
      {"\x7f", "\\x7f"},
      {"\xC2\x9B", "\\u009b"},              // CSI as one C1 control
      {"\xE2\x80\xAE", "\\u202e"},          // right-to-left override
      {"\xE2\x81\xA6", "\\u2066"},          // isolate
      {"\xE2\x80\xA8", "\\u2028"},          // line separator
      {"\xD8\x9C", "\\u061c"},              // Arabic letter mark
      {"\xEF\xBB\xBF", "\\ufeff"},          // byte order mark
      {"\xFF\xC3", "\\xff\\xc3"},           // no UTF-8, and a sequence that is cut off
      {"\xC0\xAF", "\\xc0\\xaf"},           // overlong
      {"\xED\xA0\x80", "\\xed\\xa0\\x80"},  // a surrogate
  };
  for (const auto& [text, expected] : cases) {
    EXPECT_EQ(escaped(text), expected);
    EXPECT_EQ(shown(text), '"' + expected + '"');
    EXPECT_EQ(escaped_line(text), expected);
  }
}

TEST(Text, IsCutAtCharactersNotWithinThem) {
  std::string long_text;
  for (int i = 0; i < 300; ++i) long_text += "\xC3\xA9";
  const std::string cut = escaped(long_text);
  EXPECT_EQ(cut, long_text.substr(0, 400) + "...");
  EXPECT_EQ(escaped_line(long_text), long_text);
  EXPECT_EQ(escaped(std::string(200, 'a')), std::string(200, 'a'));
}

TEST(Text, LongLinesKeepTheirBeginningAndTheirEnd) {
  const std::string line = "m/config.json: " + std::string(5'000'000, 'x') + "; download it again";
  const std::string cut = escaped_line(line);
  EXPECT_LT(cut.size(), 4000U);
  EXPECT_TRUE(cut.starts_with("m/config.json: xxx"));
  EXPECT_TRUE(cut.ends_with("; download it again"));
  std::string two_bytes = "a";
  for (int i = 0; i < 10000; ++i) two_bytes += "\xC3\xA9";
  EXPECT_EQ(escaped_line(two_bytes).find("\\x"), std::string::npos);
}

TEST(Text, JsonForATerminalKeepsItsValues) {
  const std::string name = "a\x7f\xC2\x9b\xE2\x80\xAE\xF3\xA0\x80\x81 \xC3\xA9\xE4\xB8\xAD\xF0\x9F\x98\x80\n\t\"\\";
  const nlohmann::json value = {{name, {name, 1.5, nullptr}}};
  for (const int indent : {-1, 2}) {
    const std::string text = json_for_terminal(value.dump(indent));
    EXPECT_EQ(nlohmann::json::parse(text), value);
    for (const char* raw : {"\x7f", "\xC2\x9b", "\xE2\x80\xAE", "\xF3\xA0\x80\x81"})
      EXPECT_EQ(text.find(raw), std::string::npos) << text;
    EXPECT_NE(text.find("\xC3\xA9\xE4\xB8\xAD\xF0\x9F\x98\x80"), std::string::npos) << text;
  }
}

TEST(Text, ResultsOnATerminalCannotSteerIt) {
  const std::string plain = "two lines\n\tof text: \xC3\xA9 \xE4\xB8\xAD \\ \xF0\x9F\x98\x80\n";
  EXPECT_EQ(text_for_terminal(plain), plain);
  // Joiners and marks that Persian, Hindi and emoji need: zero width (non-)joiner, left-to-right mark.
  const std::string joined = "\xE2\x80\x8C\xE2\x80\x8D\xE2\x80\x8E\xF0\x9F\x91\xA9\xE2\x80\x8D\xF0\x9F\x92\xBB";
  EXPECT_EQ(text_for_terminal(joined), joined);
  EXPECT_EQ(text_for_terminal("a\x1b[2J\rb\x07\x7f\xC2\x9b\xE2\x80\xAE\xE2\x81\xA6\xE2\x80\xA8 \xff"),
            "a\\x1b[2J\\rb\\x07\\x7f\\u009b\\u202e\\u2066\\u2028 \\xff");
  const std::string long_text(10000, 'a');
  EXPECT_EQ(text_for_terminal(long_text), long_text);
}

}  // namespace
}  // namespace metal_marlin

#include "formats/json/json_fault.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include <cctype>
#include <nlohmann/json.hpp>

#include "core/random.h"

namespace metal_marlin {
namespace {

TEST(JsonFault, SaysWhereWhatWasExpectedAndWhatWasFound) {
  const std::pair<std::string, std::string> cases[] = {
      {"", "the file is empty (0 bytes)"},
      {"   ", "the file is empty (3 bytes)"},
      {"{\"a\": }", "expected a value at byte 6, found '}'"},
      {"{\"a\": 1,}", "expected a key in double quotes at byte 8, found '}'"},
      {"{a: 1}", "expected a key in double quotes or '}' at byte 1, found 'a'"},
      {"{\"a\" 1}", "expected ':' after a key at byte 5, found '1'"},
      {"{\"a\": 1 \"b\": 2}", "expected ',' or '}' at byte 8, found '\"'"},
      {"[1 2]", "expected ',' or ']' at byte 3, found '2'"},
      {"[1,]", "expected a value at byte 3, found ']'"},
      {"[", "expected a value or ']' at byte 1, found the end of the text"},
      {"{} {}", "expected nothing after the value at byte 3, found '{'"},
      {"\"abc", "expected '\"' at the end of a string at byte 4, found the end of the text"},
      {"\"a\nb\"", "expected no control character in a string at byte 2, found the byte 0x0a"},
      {"\"\\x\"", "expected an escape such as \\n or \\u0041 at byte 2, found 'x'"},
      {"\"\\u12g4\"", "expected four hexadecimal digits after \\u at byte 5, found 'g'"},
      {"\"\xff\"", "expected UTF-8 at byte 1, found the byte 0xff"},
      {"\xEF\xBB\xBF{}",
       "it begins with a byte order mark, which JSON does not allow and other programs refuse: save it as UTF-8 "
       "without one"},
      {"nul", "expected a value at byte 0, found 'n'"},
      {"-", "expected a digit at byte 1, found the end of the text"},
      {"01", "expected nothing after the value at byte 1, found '1'"},
      {"1.e5", "expected a digit at byte 2, found 'e'"},
      {std::string("[1]\0", 4), "expected nothing after the value at byte 3, found a zero byte"},
      {"\xC3\xA9", "expected a value at byte 0, found '\xC3\xA9'"},
      {"{\"a\": [1, 2", "expected ',' or ']' at byte 11, found the end of the text"},
      {"{\"a\": 1} x", "expected nothing after the value at byte 9, found 'x'"},
      {"{\"a\": 1, 2}", "expected a key in double quotes at byte 9, found '2'"},
      {"{ [", "expected a key in double quotes or '}' at byte 2, found '['"},
      {"[{\"a\" \"b\"", "expected ':' after a key at byte 6, found '\"'"},
      {"{\"a\": 1 false", "expected ',' or '}' at byte 8, found 'f'"},
      {"[1 true]", "expected ',' or ']' at byte 3, found 't'"},
      {"[null null]", "expected ',' or ']' at byte 6, found 'n'"},
      {"[truex]", "expected ',' or ']' at byte 5, found 'x'"},
      {"{\"a\": nan}", "expected a value at byte 6, found 'n'"},
      {"{\"a\": Nothing}", "expected a value at byte 6, found 'N'"},
      {"[12 -345.5e3]", "expected ',' or ']' at byte 4, found '-'"},
      {"[\"\xC3\xA9\" \"\xC3\xA9\"]", "expected ',' or ']' at byte 6, found '\"'"},
      {"[1.5e+]", "expected a digit at byte 6, found ']'"},
      {"[1, 1e999]", "expected a number within the range of a double at byte 4, found '1e999'"},
      {"\"\xC3(\"", "expected UTF-8 at byte 1, found the byte 0xc3"},
      {"\"\xC3\xA9\xE2\x82\"", "expected UTF-8 at byte 3, found the byte 0xe2"},
      {"\"\xC3\xA9\xff\"", "expected UTF-8 at byte 3, found the byte 0xff"},
      {"\"\xED\xA0\x80\"", "expected UTF-8 at byte 1, found the byte 0xed"},
      {"\"\\ud83dx\"", "expected the second half of a surrogate pair at byte 7, found 'x'"},
      {"\"\\ude00\"", "expected no second half of a surrogate pair alone at byte 6, found '0'"},
      {"[\xE2\x80\xAE]", "expected a value or ']' at byte 1, found '\\u202e'"},  // turns the line around
      {"[\x1b]", "expected a value or ']' at byte 1, found the byte 0x1b"},
      {std::string("[1,\0]", 5), "expected a value at byte 3, found a zero byte"},
      {std::string("\"a\0\"", 4), "expected no control character in a string at byte 2, found a zero byte"},
      // What the parser quotes of the text is not taken for its own words.
      {"[; last read: ' missing closing quote; expected end of input", "expected a value or ']' at byte 1, found ';'"},
      {"[\"; expected end of input", "expected '\"' at the end of a string at byte 25, found the end of the text"},
  };
  for (const auto& [text, message] : cases) EXPECT_EQ(json_fault_text(text), "no valid JSON: " + message) << text;
  EXPECT_EQ(json_fault_text("{", 8),
            "no valid JSON: expected a key in double quotes or '}' at byte 9, found the end of the text");
}

TEST(JsonFault, NestingTakesNoStack) {
  const std::string open(2'000'000, '[');
  EXPECT_EQ(find_json_fault(open)->offset, open.size());
  EXPECT_FALSE(find_json_fault(open + std::string(open.size(), ']')));
}

// Whatever is changed in a valid text: there is a fault where nlohmann's parser refuses it, and up to the fault's place
// the text is the beginning of a valid one.
TEST(JsonFault, AgreesWithAParser) {
  const std::string whole =
      R"( {"a": [1, -2.5e+3, true, null, "x\n\u00e9\ud83d\ude00"], "b": {"c": {}, "d": []}, "e": "é€😀", "f": false} )";
  ASSERT_TRUE(nlohmann::json::accept(whole));
  ASSERT_FALSE(find_json_fault(whole));
  for (size_t n = 0; n < whole.size(); ++n) {
    const std::string cut = whole.substr(0, n);
    EXPECT_EQ(!find_json_fault(cut), nlohmann::json::accept(cut)) << cut;
  }
  Random random(5);
  const std::string bytes = "{}[]:,\"\\ 0123456789.-+eEtfnul\xC3\xA9\xED\xA0\x80\x01u";
  int invalid = 0;
  for (int i = 0; i < 20000; ++i) {
    std::string text = whole;
    for (uint64_t k = 0; k <= random.below(3); ++k) {
      const size_t at = random.below(text.size());
      const char c = bytes[random.below(bytes.size())];
      switch (random.below(3)) {
        case 0:
          text[at] = c;
          break;
        case 1:
          text.erase(at, 1);
          break;
        default:
          text.insert(at, 1, c);
      }
    }
    const bool accepted = nlohmann::json::accept(text);
    invalid += accepted ? 0 : 1;
    const auto fault = find_json_fault(text);
    ASSERT_EQ(!fault, accepted) << text << "\n" << json_fault_text(text);
    if (!fault) continue;
    const std::string before = text.substr(0, fault->offset);
    const auto cut = find_json_fault(before);
    ASSERT_TRUE(!cut || cut->offset == before.size()) << text << "\n" << json_fault_text(text);
  }
  EXPECT_GT(invalid, 1000);
}

}  // namespace
}  // namespace metal_marlin

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

// Whatever is changed in a valid text, this scanner and nlohmann's parser agree on whether it still is one.
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
    ASSERT_EQ(!find_json_fault(text), accepted) << text << "\n" << json_fault_text(text);
  }
  EXPECT_GT(invalid, 1000);
}

}  // namespace
}  // namespace metal_marlin

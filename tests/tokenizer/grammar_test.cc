// Grammars of JSON schemas: bounds against schemas that would take the stack, the memory or the time.
#include "tokenizer/grammar.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include <chrono>
#include <string>

namespace metal_marlin {
namespace {

// What check_json_schema() says; empty: nothing.
std::string fault_of(const std::string& schema) {
  const auto start = std::chrono::steady_clock::now();
  std::string fault;
  try {
    check_json_schema(schema, "s.json");
  } catch (const FormatError& error) {
    fault = error.what();
    EXPECT_TRUE(fault.starts_with("s.json: ")) << fault;
    EXPECT_LT(fault.size(), 2000u);
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(120)) << schema.substr(0, 100);
  return fault;
}

TEST(Grammar, SchemasInUse) {
  EXPECT_EQ(fault_of("true"), "");
  EXPECT_EQ(fault_of("{}"), "");
  EXPECT_EQ(fault_of(R"({"$schema":"https://json-schema.org/draft/2020-12/schema","title":"T","description":"D",
    "type":"object","properties":{"a":{"type":"string","format":"date-time","default":"x"}},"required":["a"]})"),
            "");
  EXPECT_EQ(fault_of(R"({"$schema":"http://json-schema.org/draft-07/schema#","definitions":{"p":{"type":"integer"}},
    "type":"array","items":{"$ref":"#/definitions/p"}})"),
            "");
}

// Each is refused or accepted, soon, and the process lives.
TEST(Grammar, SchemasThatWouldTakeTooMuch) {
  std::string chain = R"({"$ref":"#/$defs/d0","$defs":{)";
  for (int i = 0; i < 24000; ++i) {
    const std::string n = std::to_string(i);
    chain += (i > 0 ? ",\"d" : "\"d") + n + R"(":{"$ref":"#/$defs/d)" + std::to_string(i + 1) + "\"}";
  }
  fault_of(chain + R"(,"d24000":{"type":"null"}}})");
  std::string lists = R"({"$ref":"#/$defs/d0","$defs":{)";
  for (int i = 0; i < 16000; ++i) {
    const std::string n = std::to_string(i);
    lists += (i > 0 ? ",\"d" : "\"d") + n + R"(":{"items":{"$ref":"#/$defs/d)" + std::to_string(i + 1) + "\"}}";
  }
  fault_of(lists + R"(,"d16000":{"type":"null"}}})");
  EXPECT_EQ(fault_of(R"({"$ref":"#"})"),
            "s.json: this JSON schema cannot be used: no value fits, or the vocabulary has no token to begin one");
  EXPECT_NE(fault_of(R"({"allOf":[{"$ref":"#"},{"$ref":"#"}]})"), "");
  fault_of(R"({"$defs":{"a":{"allOf":[{"$ref":"#/$defs/b"},{"type":"object"}]},"b":{"allOf":[{"$ref":"#/$defs/a"}]}},)"
           R"("$ref":"#/$defs/a"})");
  for (const char* pattern :
       {"(((a{1000}){1000}){1000}){1000}", "^(a|b)*a(a|b){200}$", "(a*)*b", "(?:a?){5000}a{5000}", "[^a]{1,100000}"}) {
    fault_of(std::string(R"({"type":"string","pattern":")") + pattern + "\"}");
  }
  fault_of(R"({"type":"string","pattern":")" + std::string(400000, 'a') + "\"}");
  fault_of(R"({"type":"string","pattern":")" + std::string(5000, '(') + std::string(5000, ')') + "\"}");
  fault_of(R"({"const":")" + std::string(1000000, 'a') + "\"}");
  fault_of(R"({"type":"string","minLength":1000000000,"maxLength":2000000000})");
  fault_of(R"({"type":"array","minItems":1000000000,"items":{"type":"null"}})");
  fault_of(R"({"type":"array","minItems":5,"maxItems":1000000000,"items":{"enum":["a","b"]}})");
  fault_of(R"({"type":"object","minProperties":1000000000})");
  fault_of(R"({"type":"number","multipleOf":1e-300})");
  fault_of(R"({"type":"integer","minimum":-1e308,"maximum":1e308})");
  // Its multiples have too many remainders to keep.
  EXPECT_NE(fault_of(R"({"type":"integer","multipleOf":123456789})").find("limit of"), std::string::npos);
  EXPECT_NE(fault_of(R"({"type":"integer","minimum":1e999})"), "");
  // A text of many bytes at which the message would be cut.
  EXPECT_EQ(fault_of("{\"type\":\"string\",\"pattern\":[\"" + std::string(97, 'a') + "éééééé\"]}"),
            "s.json: this JSON schema cannot be used: a keyword has a value of a type that it cannot have");
  std::string wide = R"({"type":"object","properties":{)";
  for (int i = 0; i < 20000; ++i) wide += (i > 0 ? ",\"p" : "\"p") + std::to_string(i) + R"(":{"type":"null"})";
  fault_of(wide + "}}");
  std::string all = R"({"allOf":[)";
  for (int i = 0; i < 300; ++i) all += (i > 0 ? "," : "") + std::string(R"({"anyOf":[{"minimum":1},{"maximum":2}]})");
  fault_of(all + "]}");
}

TEST(Grammar, MessagesSayWhatAndWhere) {
  EXPECT_EQ(fault_of(R"({"type":"array","uniqueItems":true})"),
            R"(s.json: this JSON schema cannot be used: Unimplemented keys: ["uniqueItems"])");
  EXPECT_EQ(fault_of("[]"), "s.json: expected a JSON schema, an object, found array");
  EXPECT_EQ(fault_of("{\"a\":"), "s.json: no valid JSON: expected a value at byte 5, found the end of the text");
}

}  // namespace
}  // namespace metal_marlin

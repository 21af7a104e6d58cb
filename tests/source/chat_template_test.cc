#include "source/chat_template.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>

namespace metal_marlin {
namespace {

using Json = nlohmann::json;

const ChatTemplate::Tokens kTokens{"<s>", "</s>", "", ""};
const Json kHello = Json::array({{{"role", "user"}, {"content", "hello"}}});

TEST(ChatTemplate, RendersAsTransformersDoes) {
  setenv("TZ", "UTC", 1);
  std::ifstream in(std::string(TEST_DATA) + "/tokenizer/chat.json");
  const auto golden = nlohmann::ordered_json::parse(in);
  for (const auto& c : golden["cases"]) {
    SCOPED_TRACE(c["name"].get<std::string>());
    ChatTemplate chat(c["template"], kTokens);
    chat.set_now(golden["now"]);
    const auto render = [&] {
      return chat.apply_text(c["messages"].dump(), c["add_generation_prompt"].get<bool>(), c["variables"].dump());
    };
    if (c.contains("text")) {
      EXPECT_EQ(render(), c["text"].get<std::string>());
    } else {
      try {
        render();
        ADD_FAILURE() << "accepted";
      } catch (const ArgumentError& e) {
        EXPECT_NE(std::string(e.what()).find(c["error"].get<std::string>()), std::string::npos) << e.what();
      }
    }
  }
}

TEST(ChatTemplate, TakesMessagesAsStructs) {
  const ChatTemplate chat("{% for m in messages %}{{ m.role }}:{{ m.content }}|{% endfor %}{{ add_generation_prompt }}",
                          kTokens);
  EXPECT_EQ(chat.apply(std::vector<ChatMessage>{{"user", "a"}, {"assistant", "b"}}, true), "user:a|assistant:b|True");
}

TEST(ChatTemplate, LeavesAbsentTokensUndefined) {
  const ChatTemplate chat("{{ bos_token is defined }} {{ pad_token is defined }} {{ pad_token }}.", kTokens);
  EXPECT_EQ(chat.apply(kHello, false), "True False .");
}

TEST(ChatTemplate, RefusesWhatCannotBeRendered) {
  EXPECT_THROW(ChatTemplate("", kTokens), UnsupportedError);
  // A template that cannot be parsed is the file's fault, and the message names the file.
  try {
    ChatTemplate("{% if %}", kTokens, "model/chat_template.jinja").apply(kHello, false);
    ADD_FAILURE() << "accepted";
  } catch (const FormatError& e) {
    EXPECT_EQ(std::string(e.what()).find("model/chat_template.jinja: the template cannot be parsed"), 0u) << e.what();
  }
  EXPECT_THROW(ChatTemplate("{{ missing.field }}", kTokens).apply(kHello, false), ArgumentError);
  EXPECT_THROW(ChatTemplate("{{ x() }}", kTokens).apply(kHello, false), ArgumentError);
  EXPECT_THROW(ChatTemplate("x", kTokens).apply(Json::object(), false), ArgumentError);
  EXPECT_THROW(ChatTemplate("x", kTokens).apply_text("[", false), ArgumentError);
  EXPECT_THROW(ChatTemplate("x", kTokens).apply_text("[]", false, "[1]"), ArgumentError);
  EXPECT_THROW(ChatTemplate("x", kTokens).apply_text(std::string(100'000, '['), false), ArgumentError);
  EXPECT_THROW(ChatTemplate("x", kTokens).apply(Json::array({{{"content", "a"}}}), false), ArgumentError);
  EXPECT_THROW(ChatTemplate("x", kTokens).apply(Json::array({{{"role", "user"}, {"content", "\xFF"}}}), false),
               ArgumentError);
}

TEST(ChatTemplate, EndlessAndDeepTemplatesEnd) {
  const ChatTemplate loop(
      "{% for i in range(99999) %}{% for k in range(99999) %}{% set x = k %}{% endfor %}{% endfor %}", kTokens);
  EXPECT_THROW(loop.apply(kHello, false), ArgumentError);
  const ChatTemplate recursion("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", kTokens);
  EXPECT_THROW(recursion.apply(kHello, false), ArgumentError);
  const ChatTemplate nested("{{ " + std::string(100'000, '('), kTokens);
  EXPECT_THROW(nested.apply(kHello, false), ArgumentError);
  const ChatTemplate open("{{ " + std::string(100'000, '[') + " }}", kTokens);
  EXPECT_THROW(open.apply(kHello, false), ArgumentError);
}

}  // namespace
}  // namespace metal_marlin

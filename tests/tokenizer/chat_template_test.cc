#include "tokenizer/chat_template.h"

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
  EXPECT_THROW(loop.apply(kHello, false), FormatError);
  const ChatTemplate recursion("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", kTokens);
  EXPECT_THROW(recursion.apply(kHello, false), ArgumentError);
  EXPECT_THROW(ChatTemplate("{{ " + std::string(100'000, '('), kTokens), FormatError);
  EXPECT_THROW(ChatTemplate("{{ " + std::string(100'000, '[') + " }}", kTokens), FormatError);
}

// Each by itself took gigabytes, hours or the whole stack.
TEST(ChatTemplate, BombsEndInAnErrorThatNamesTheFile) {
  const std::string loop = "{% for i in range(40) %}";
  const std::string templates[] = {
      "{{ " + std::string(100'000, '-') + "1 }}",
      "{{ " + std::string(5'000, '-') + "1 + 1" + " }}{{ " + std::string(200'000, ' ') + "1" +
          "- -1 }}{% set n = " + std::string(9'000, '-') + "1 %}{{ 1" +
          [] {
            std::string chain;
            for (int i = 0; i < 20'000; ++i) chain += "+1";
            return chain;
          }() +
          " }}",
      "{% set n=namespace(a=[]) %}{% for i in range(1000) %}{% for j in range(2000) %}{% set n.a=[n.a] %}{% endfor %}"
      "{% endfor %}",
      "{% set n=namespace(s='aaaaaaaa') %}" + loop + "{% set n.s=n.s~n.s %}{% endfor %}",
      "{% set n=namespace(s='aaaaaaaa') %}" + loop + "{% set n.s=n.s+n.s %}{% endfor %}",
      "{% set n=namespace(s='aaaaaaaa') %}" + loop + "{% set n.s=n.s|replace('a', 'aa') %}{% endfor %}",
      "{% set n=namespace(s=[1]) %}" + loop + "{% set n.s=n.s+n.s %}{% endfor %}{{ n.s|length }}{{ n.s|list }}",
      "{{ 'a'|indent(width=1000000000000) }}",
      "{{ 'a' * 1000000000 }}",
      "{{ [1] * 1000000000 }}",
      "{{ 'a'.ljust(1000000000000) }}",
      "{{ range(100000000)|list }}",
      "{% for i in range(10000000) %}aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa{% endfor %}",
      "{% set n=namespace(s='a'*1000000) %}{% for a in range(10000) %}{% for b in range(1000) %}"
      "{% set x=n.s|replace('a','b') %}{% endfor %}{% endfor %}",
      "{% set s='a'*10000000 %}{% set t='a'*10000000 %}{% for a in range(10000) %}{% for b in range(1000) %}"
      "{% set x=s==t %}{% endfor %}{% endfor %}",
  };
  for (const std::string& text : templates) {
    SCOPED_TRACE(text.substr(0, 80));
    try {
      ChatTemplate(text, kTokens, "model/chat_template.jinja").apply(kHello, false);
      ADD_FAILURE() << "accepted";
    } catch (const Error& e) {
      EXPECT_EQ(std::string(e.what()).find("model/chat_template.jinja: "), 0u) << e.what();
    }
  }
  // And the next rendering is as it was.
  EXPECT_EQ(ChatTemplate("{{ messages[0].content }}", kTokens).apply(kHello, false), "hello");
}

// A table of expressions and templates, with what transformers makes of each: the same text, or an error; what jinja2
// refuses before it renders is refused when it is loaded, by the file's name.
// What is rendered is tokenized afterwards, which takes hundreds of times its size.
TEST(ChatTemplate, OutputIsBoundedByTheConversation) {
  const ChatTemplate large("{% for i in range(6) %}{{ 'a ' * 1000000 }}{% endfor %}", {}, "chat_template.jinja");
  try {
    large.apply(std::vector<ChatMessage>{{"user", "hi"}}, true);
    FAIL() << "12 MB were made of two bytes";
  } catch (const FormatError& error) {
    const std::string what = error.what();
    EXPECT_NE(what.find("chat_template.jinja"), std::string::npos) << what;
    EXPECT_NE(what.find("limit of"), std::string::npos) << what;
  }
  // A long conversation may be written out several times.
  const ChatTemplate thrice("{% for i in range(3) %}{{ messages[0].content }}{% endfor %}", {}, "chat_template.jinja");
  EXPECT_EQ(thrice.apply(std::vector<ChatMessage>{{"user", std::string(1'000'000, 'a')}}, true).size(), 3'000'000u);
}

TEST(ChatTemplate, GivesTheTextOfTransformersOrAnError) {
  std::ifstream in(std::string(TEST_DATA) + "/tokenizer/expressions.json");
  const auto golden = nlohmann::ordered_json::parse(in);
  const std::string messages = golden["context"]["messages"].dump();
  const ChatTemplate::Tokens tokens{golden["context"]["bos_token"].get<std::string>(), "", "", ""};
  for (const auto& c : golden["cases"]) {
    const auto text = c["template"].get<std::string>();
    SCOPED_TRACE(text);
    std::string found;
    bool loaded = false;
    try {
      const ChatTemplate chat(text, tokens, "model/chat_template.jinja");
      loaded = true;
      found = chat.apply_text(messages, true);
    } catch (const Error& e) {
      EXPECT_FALSE(c.contains("text")) << e.what();
      EXPECT_EQ(std::string(e.what()).find("model/chat_template.jinja: "), 0u) << e.what();
      EXPECT_TRUE(!c.contains("load") || !loaded) << e.what();
      continue;
    }
    ASSERT_TRUE(c.contains("text")) << "accepted: " << found;
    EXPECT_EQ(found, c["text"].get<std::string>());
  }
}

// The values are those of Python 3.11 with Jinja 3.1.
TEST(ChatTemplate, OperatorsAreThoseOfPython) {
  const std::pair<const char*, const char*> cases[] = {
      {"5 // -2", "-3"},
      {"-5 // 2", "-3"},
      {"-5 // -2", "2"},
      {"5.5 // -2", "-3.0"},
      {"5 % -2", "-1"},
      {"-5 % 3", "1"},
      {"-5.5 % 3", "0.5"},
      {"5 % 3", "2"},
      {"2 ** -1", "0.5"},
      {"2 ** 10", "1024"},
      {"-2 ** 2", "4"},
      {"7 / 2", "3.5"},
      {"4 / 2", "2.0"},
      {"true + 1", "2"},
      {"'a' * 3", "aaa"},
      {"'a' * -1", ""},
      {"[1, 2] * 2", "[1, 2, 1, 2]"},
      {"1.0 ~ true ~ none", "1.0TrueNone"},
      {"'%.2f' % 3.14159", "3.14"},
      {"'%s and %d' % ('a', 5)", "a and 5"},
      {"'%s' % [1, 2]", "[1, 2]"},
      {"'%d%%' % 5", "5%"},
      {"'%05d|%x' % (42, 255)", "00042|ff"},
  };
  for (const auto& [expression, value] : cases) {
    SCOPED_TRACE(expression);
    EXPECT_EQ(ChatTemplate("{{ " + std::string(expression) + " }}", kTokens).apply(kHello, false), value);
  }
  for (const char* zero : {"1 // 0", "1 % 0", "1 / 0", "0 ** -1", "1.0 % 0"})
    EXPECT_THROW(ChatTemplate("{{ " + std::string(zero) + " }}", kTokens).apply(kHello, false), ArgumentError) << zero;
}

TEST(ChatTemplate, MethodsAndFiltersAreThoseOfPythonAndJinja) {
  const std::pair<const char*, const char*> cases[] = {
      {"'a,b,c'.rsplit(',', 1)", "['a,b', 'c']"},
      {"'a,b,c'.split(',', 1)", "['a', 'b,c']"},
      {"'a,b,c'.split(',', maxsplit=1)", "['a', 'b,c']"},
      {"' a  b c '.split()", "['a', 'b', 'c']"},
      {"' a  b c '.rsplit(none, 1)", "[' a  b', 'c']"},
      {"' a  b c '.split(none, 1)", "['a', 'b c ']"},
      {"'prefix-x'.removeprefix('prefix-')", "x"},
      {"'x.txt'.removesuffix('.txt')", "x"},
      {"'k=v=w'.partition('=')[2]", "v=w"},
      {"'k=v=w'.rpartition('=')[0]", "k=v"},
      {"'\xC3\xA9xa'.find('a')", "2"},
      {"'abcabc'.rfind('b')", "4"},
      {"'abcabc'.index('c')", "2"},
      {"'aaa'.count('')", "4"},
      {"'7'.zfill(3) ~ '-7'.zfill(4)", "007-007"},
      {"'a'.ljust(3, '.') ~ 'b'.rjust(3) ~ 'c'.center(5, '*')", "a..  b**c**"},
      {"'aB'.swapcase() ~ 'AB'.casefold()", "Abab"},
      {"'a b'.islower() ~ 'A1'.isupper() ~ ''.isdigit()", "TrueTrueFalse"},
      {"'a\r\nb\fc'.splitlines()", "['a', 'b', 'c']"},
      {"'Hello World'.istitle()", "True"},
      {"[1, 2, 1].count(1) ~ [1, 2].index(2)", "21"},
      {"{'a': 1}.copy().a", "1"},
      {"'abc'.startswith('b', 1)", "True"},
      {"'ff'|int(0, 16) ~ '0x1F'|int(0, 16) ~ 'zz'|int(7) ~ '12.9'|int",
       "2553171"
       "2"},
      {"'x'|int(default=5)", "5"},
      {"'1e3'|float ~ 'x'|float(2.5)", "1000.02.5"},
      {"'one two, three_4'|wordcount", "3"},
      {"'foo bar baz qux'|truncate(9)", "foo..."},
      {"'foo bar baz qux'|truncate(9, true)", "foo ba..."},
      {"'foo bar baz qux'|truncate(11)", "foo bar baz qux"},
      {"'foo bar baz qux'|truncate(11, false, '...', 0)", "foo bar..."},
      {"'a b/c&d'|urlencode", "a%20b/c%26d"},
      {"{'a b': 'c/d'}|urlencode", "a+b=c%2Fd"},
      {"[true, 1.0, none]|join('-')", "True-1.0-None"},
      {"'x'|center(5) ~ '|'", "  x  |"},
      {"'<a>'|forceescape", "&lt;a&gt;"},
      {"'<p>a  <b>b</b></p> &amp; c'|striptags", "a b & c"},
      {"1000000|filesizeformat ~ 1|filesizeformat ~ 1048576|filesizeformat(true)", "1.0 MB1 Byte1.0 MiB"},
      {"'aaa bbb ccc'|wordwrap(7)", "aaa bbb\nccc"},
      {"raise_exception is callable", "True"},
  };
  for (const auto& [expression, value] : cases) {
    SCOPED_TRACE(expression);
    std::string expected(value);
    if (const size_t at = expected.find("\\n"); at != std::string::npos) expected.replace(at, 2, "\n");
    EXPECT_EQ(ChatTemplate("{{ " + std::string(expression) + " }}", kTokens).apply(kHello, false), expected);
  }
  const std::pair<const char*, const char*> more[] = {
      {"range(2, 9, 3).start ~ range(2, 9, 3).stop ~ range(2, 9, 3).step", "293"},
      {"lipsum is defined ~ cycler is defined", "TrueTrue"},
      {"{'real': 1}.real ~ {'items': 2}['items'] ~ [5][0] ~ 'abc'[-1]", "125c"},
  };
  for (const auto& [expression, value] : more) {
    SCOPED_TRACE(expression);
    EXPECT_EQ(ChatTemplate("{{ " + std::string(expression) + " }}", kTokens).apply(kHello, false), value);
  }
  // What is missing is named; what changes a value is refused, as in transformers' sandbox.
  for (const auto& [expression, name] :
       {std::pair("'a'.encode()", "encode"), std::pair("'a'|urlize", "urlize"), std::pair("[1]|random", "random"),
        std::pair("[1].append(2)", "append"), std::pair("{}.update({})", "update"),
        // Names and attributes that jinja2 has: an empty text would be wrong.
        std::pair("self", "self"), std::pair("self.title", "self"), std::pair("lipsum", "lipsum"),
        std::pair("lipsum()", "lipsum"), std::pair("'a' ~ lipsum", "lipsum"), std::pair("[cycler]", "function"),
        std::pair("cycler", "function"), std::pair("joiner", "function"), std::pair("(2).real", "real"),
        std::pair("2.5.imag", "imag"), std::pair("true.numerator", "numerator"), std::pair("(2)['real']", "real"),
        std::pair("messages|length|attr('real')", "real"), std::pair("'abc'['upper']", "upper"),
        std::pair("(1, 2).count", "count"), std::pair("range", "function"), std::pair("namespace", "function"),
        std::pair("raise_exception", "function"), std::pair("debug()", "debug")}) {
    try {
      ChatTemplate("{{ " + std::string(expression) + " }}", kTokens).apply(kHello, false);
      ADD_FAILURE() << expression;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(name), std::string::npos) << e.what();
    }
  }
}

TEST(ChatTemplate, NamesWithinMacrosAndLoopsThatAreMissingAreNamed) {
  for (const auto& [source, name] :
       {std::pair("{% macro m(a) %}{{ varargs }}{% endmacro %}{{ m(1) }}", "varargs"),
        std::pair("{% macro m(a) %}{% for x in kwargs %}{{ x }}{% endfor %}{% endmacro %}{{ m(1) }}", "kwargs"),
        std::pair("{% macro m(a) %}{% endmacro %}{{ m.catch_kwargs }}", "catch_kwargs"),
        std::pair("{% for x in [1] %}{{ loop.cycle }}{% endfor %}", "cycle")}) {
    SCOPED_TRACE(source);
    try {
      const std::string text = ChatTemplate(source, kTokens).apply(kHello, false);
      ADD_FAILURE() << "accepted: " << text;
    } catch (const ArgumentError& e) {
      EXPECT_NE(std::string(e.what()).find(name + std::string(" ")), std::string::npos) << e.what();
    }
  }
  // Where the template gives them itself, they count.
  EXPECT_EQ(
      ChatTemplate("{% macro m(kwargs) %}{% set varargs = 2 %}{{ kwargs ~ varargs }}{% endmacro %}{{ m(1) }}", kTokens)
          .apply(kHello, false),
      "12");
  EXPECT_EQ(ChatTemplate("{% set lipsum = 3 %}{{ lipsum }}{{ kwargs }}", kTokens).apply(kHello, false), "3");
  EXPECT_EQ(ChatTemplate("{% block b %}x{% endblock %}{{ self.b() }}", kTokens).apply(kHello, false), "xx");
}

TEST(ChatTemplate, ARefusalIsTheTemplatesOwnMessage) {
  const std::string source =
      "{% macro no(m) %}{{ raise_exception('no ' ~ m.role) }}{% endmacro %}"
      "{% for m in messages %}{{ no(m) }}{% endfor %}";
  try {
    ChatTemplate(source, kTokens, "model/chat_template.jinja")
        .apply(Json::array({{{"role", "system"}, {"content", ""}}}), false);
    ADD_FAILURE() << "accepted";
  } catch (const ArgumentError& e) {
    EXPECT_STREQ(e.what(), "model/chat_template.jinja: the chat template refuses this conversation: no system");
  }
}

}  // namespace
}  // namespace metal_marlin

#include "text/jsonl_text.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "formats/json/json_lines.h"
#include "tokenizer/tokenizer.h"

namespace metal_marlin {
namespace {

using nlohmann::json;

// Words for tokens; every word that is not listed is 0.
Tokenizer word_tokenizer(const std::string& chat_template) {
  json vocabulary;
  int id = 0;
  for (const char* word :
       {"?", "[user]", "[assistant]", "[system]", "[tool]", "[end]", "red", "green", "blue", "call", "date"})
    vocabulary[word] = id++;
  const json tokenizer = {{"version", "1.0"},
                          {"truncation", nullptr},
                          {"padding", nullptr},
                          {"added_tokens", json::array()},
                          {"normalizer", nullptr},
                          {"pre_tokenizer", {{"type", "WhitespaceSplit"}}},
                          {"post_processor", nullptr},
                          {"decoder", nullptr},
                          {"model", {{"type", "WordLevel"}, {"vocab", vocabulary}, {"unk_token", "?"}}}};
  TokenizerFiles files;
  files.tokenizer_json = tokenizer.dump();
  files.chat_template_jinja = chat_template;
  return Tokenizer::from_files(files, "model");
}

constexpr const char* kTemplate =
    "{% if tools %}[tool] {% endif %}{% for m in messages %}[{{ m.role }}] "
    "{% if m.content == 'refuse' %}{{ raise_exception('no ' ~ m.content) }}{% endif %}"
    "{% if m.content is none %}call{% else %}{{ m.content }}{% endif %} [end]\n{% endfor %}{{ '?' if "
    "add_generation_prompt }}";

class JsonlTextTest : public testing::Test {
 protected:
  JsonlTextTest()
      : path_((std::filesystem::temp_directory_path() / ("jsonl_text_test_" + std::to_string(getpid()) + ".jsonl"))
                  .string()) {}
  ~JsonlTextTest() override { std::filesystem::remove(path_); }
  void write(const std::string& text) const { std::ofstream(path_, std::ios::binary) << text; }
  std::string message(const std::string& line) {
    try {
      JsonlText("chat.jsonl", tokenizer_).render(line, 17);
    } catch (const FormatError& e) {
      return e.what();
    }
    return "accepted";
  }
  Tokenizer tokenizer_ = word_tokenizer(kTemplate);
  std::string path_;
};

TEST_F(JsonlTextTest, RendersConversationsByTheTemplate) {
  JsonlText lines("chat.jsonl", tokenizer_);
  EXPECT_EQ(
      lines.render(
          R"({"messages": [{"role": "system", "content": "red"}, {"role": "user", "content": "green"}], "id": 3})", 1),
      "[system] red [end]\n[user] green [end]\n");
  EXPECT_EQ(
      lines.render(
          R"({"conversations": [{"from": "human", "value": "red"}, {"from": "gpt", "value": "green", "weight": 0}]})",
          2),
      "[user] red [end]\n[assistant] green [end]\n");
  EXPECT_EQ(
      lines.render(
          R"({"tools": [{"name": "f"}], "messages": [{"role": "assistant", "content": null, "tool_calls": [{"name": "f"}]}]})",
          3),
      "[tool] [assistant] call [end]\n");
  EXPECT_EQ(lines.render(R"({"messages": [{"role": "assistant", "tool_calls": [{}], "content": "red"}]})", 3),
            "[assistant] red [end]\n");
  EXPECT_EQ(
      lines.render(
          R"({"messages": [{"role": "user", "content": [{"type": "text", "text": "red"}, {"type": "text", "text": "green"}]}]})",
          3),
      "[user] red\ngreen [end]\n");
  EXPECT_EQ(lines.render(R"({"text": "red \u00e9"})", 4), "red \xc3\xa9\n\n");
}

TEST_F(JsonlTextTest, MapsEverySpeakerOfShareGpt) {
  JsonlText lines("chat.jsonl", tokenizer_);
  for (const auto& [from, role] : {std::pair("system", "system"),
                                   {"human", "user"},
                                   {"user", "user"},
                                   {"gpt", "assistant"},
                                   {"chatgpt", "assistant"},
                                   {"assistant", "assistant"},
                                   {"tool", "tool"},
                                   {"function", "tool"},
                                   {"observation", "tool"}}) {
    EXPECT_EQ(lines.render(json{{"conversations", {{{"from", from}, {"value", "x"}}}}}.dump(), 1),
              std::string("[") + role + "] x [end]\n");
  }
}

TEST_F(JsonlTextTest, TheDateIsFixed) {
  const Tokenizer dated = word_tokenizer("{{ strftime_now('%d %B %Y') }}");
  EXPECT_EQ(JsonlText("chat.jsonl", dated).render(R"({"messages": [{"role": "user", "content": ""}]})", 1),
            "26 July 2024");
}

TEST_F(JsonlTextTest, NamesFileLineExpectedAndFound) {
  const std::pair<const char*, const char*> cases[] = {
      {"nonsense",
       "chat.jsonl:17: expected a JSON object on each line; at byte 0 of this one expected a value, found 'n'"},
      {R"({"text": "red")", "at byte 14 of this one expected ',' or '}', found the end of the text"},
      {R"({"text": "red"} {})", "at byte 16"},
      {"[1]", "chat.jsonl:17: expected a JSON object, found a list"},
      {"null", "expected a JSON object, found null"},
      {"{}", "expected one of the keys \"messages\", \"conversations\" and \"text\", found none of them"},
      {R"({"prompt": "red"})", "found none of them (the first key is \"prompt\")"},
      {R"({"text": "red", "messages": []})", "found both \"messages\" and \"text\""},
      {R"({"text": 3})", "expected a string as \"text\" of the line, found a number"},
      {R"({"messages": "red"})", "expected \"messages\" to be a list with at least one entry, found a string"},
      {R"({"messages": []})", "found an empty list"},
      {R"({"messages": [[]]})", "expected an object as messages[0], found an empty list"},
      {R"({"messages": [{"content": "red"}]})", "expected \"role\" in messages[0], found none"},
      {R"({"messages": [{"role": 1, "content": "red"}]})",
       "expected a string as \"role\" of messages[0], found a number"},
      {R"({"messages": [{"role": "user", "content": "red"}, {"role": "user"}]})",
       "expected \"content\" in messages[1], found none"},
      {R"({"messages": [{"role": "user", "content": null}]})",
       "expected a string as \"content\" of messages[0], found null"},
      {R"({"messages": [{"role": "user", "content": [{"type": "text"}]}]})",
       "expected \"text\" in messages[0].content[0], found none"},
      {R"({"messages": [{"role": "user", "content": ["red"]}]})",
       "expected an object as messages[0].content[0], found a string"},
      {R"({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]}]})",
       "expected \"type\" of messages[0].content[1] to be text, found \"image_url\""},
      {R"({"messages": [{"role": "user", "content": "refuse"}]})",
       "expected a conversation that the model's chat template takes, found one that it refuses"},
      {R"({"conversations": [{"from": "martian", "value": "red"}]})",
       "expected \"from\" of conversations[0] to be one of system, human, user, gpt, chatgpt, assistant, tool, "
       "function, observation, found \"martian\""},
      {R"({"conversations": [{"from": "human"}]})", "expected \"value\" in conversations[0], found none"},
      {R"({"conversations": [{"value": "red"}]})", "expected \"from\" in conversations[0], found none"},
      {R"({"conversations": {"from": "human"}})", "found an object"},
  };
  for (const auto& [line, expected] : cases) {
    const std::string text = message(line);
    EXPECT_NE(text.find(expected), std::string::npos) << line << "\n" << text;
    EXPECT_EQ(text.rfind("chat.jsonl:17: ", 0), 0U) << text;
  }
}

TEST_F(JsonlTextTest, ANulByteDoesNotEndALine) {
  using namespace std::string_literals;
  const std::string text = message("{\"text\": \"red\"}\0, and more"s);
  EXPECT_NE(text.find("chat.jsonl:17: "), std::string::npos) << text;
  EXPECT_NE(text.find("at byte 15 of this one expected nothing after the value, found a zero byte"), std::string::npos)
      << text;
}

TEST_F(JsonlTextTest, RefusesWhatIsTooDeepOrTooLong) {
  const std::string deep = R"({"x": )" + std::string(100000, '[') + std::string(100000, ']') + "}";
  EXPECT_NE(message(deep).find("at most 64 levels of nesting"), std::string::npos);
  EXPECT_NE(message(R"({"text": ")" + std::string(kLongestJsonLine, 'x') + "\"}").find("a line of at most 32 MiB"),
            std::string::npos);
  std::string wide = R"({"text": "a", "x": [0)";
  for (uint64_t i = 0; i < kJsonLineBounds.values; ++i) wide += ",0";
  EXPECT_NE(message(wide + "]}").find("at most 1048576 values"), std::string::npos);
  std::string keys = R"({"text": "a")";
  for (uint64_t i = 0; i < kJsonLineBounds.keys; ++i) keys += ",\"" + std::to_string(i) + "\":0";
  EXPECT_NE(message(keys + "}").find("at most 2000 keys in an object"), std::string::npos);
}

// What stands behind the documents that are needed is neither checked nor held.
TEST_F(JsonlTextTest, ReadsOnlyWhatIsNeeded) {
  std::string text;
  while (text.size() < size_t{3} << 20) text += "{\"text\": \"red green blue\"}\n";
  write(text + "\xff\n");
  const auto ids = tokenize_jsonl(path_, tokenizer_, 100);
  EXPECT_EQ(ids.size(), 102U);
  EXPECT_THROW(tokenize_jsonl(path_, tokenizer_, 1'000'000'000), FormatError);
  // A file of 8 GiB takes no disk, but nobody has the time to read it.
  write("{\"text\": \"red\"}\n");
  std::filesystem::resize_file(path_, uint64_t{8} << 30);
  EXPECT_EQ(tokenize_jsonl(path_, tokenizer_, 1).size(), 1U);
  try {
    tokenize_jsonl(path_, tokenizer_, 100);
    ADD_FAILURE() << "accepted";
  } catch (const FormatError& e) {
    EXPECT_EQ(std::string(e.what()), path_ + ":2: expected a line of at most 32 MiB, found a longer one");
  }
}

// Lines of many lengths, some of which lie across the parts in which a file is read.
TEST_F(JsonlTextTest, LinesAcrossPartsAreWhole) {
  std::string file = "\xef\xbb\xbf";
  std::vector<int32_t> want;
  for (size_t i = 0; file.size() < size_t{5} << 20; ++i) {
    std::string words;
    for (size_t k = 0; k < (i * i * 977) % 90001; ++k) words += k % 3 == 0 ? "red " : k % 3 == 1 ? "green " : "blue ";
    const std::string line = json{{"text", "call " + words}}.dump();
    const auto ids = tokenizer_.encode("call " + words + "\n\n", false);
    want.insert(want.end(), ids.begin(), ids.end());
    file += line + (i % 3 == 0 ? "\r\n" : i % 3 == 1 ? "\r" : "\n\n");
  }
  write(file);
  EXPECT_TRUE(tokenize_jsonl(path_, tokenizer_, 1'000'000'000) == want);
}

// A long document is tokenized in parts; one that has no place to be cut only as far as is needed.
TEST_F(JsonlTextTest, LongDocuments) {
  std::string lines;
  while (lines.size() < size_t{1} << 20) lines += "red green\nblue\n";
  write(json{{"text", lines}}.dump() + "\n");
  const auto beginning = tokenize_jsonl(path_, tokenizer_, 100);
  const auto all = tokenizer_.encode(lines + "\n\n", false);
  ASSERT_GE(beginning.size(), 100U);
  EXPECT_TRUE(std::equal(beginning.begin(), beginning.end(), all.begin()));
  EXPECT_TRUE(tokenize_jsonl(path_, tokenizer_, 1'000'000'000) == all);
  std::string line;
  while (line.size() < size_t{12} << 20) line += "red green blue ";
  write(json{{"text", "call"}}.dump() + "\n" + json{{"text", line}}.dump() + "\n");
  const auto ids = tokenize_jsonl(path_, tokenizer_, 100);
  const auto some = tokenizer_.encode("call\n\n" + line.substr(0, 15 * 40), false);
  ASSERT_GE(ids.size(), 100U);
  EXPECT_TRUE(std::equal(some.begin(), some.begin() + 100, ids.begin()));
}

TEST_F(JsonlTextTest, AModelWithoutATemplateTakesTextsOnly) {
  const Tokenizer plain = word_tokenizer("");
  JsonlText lines("chat.jsonl", plain);
  EXPECT_EQ(lines.render(R"({"text": "red"})", 1), "red\n\n");
  try {
    lines.render(R"({"messages": [{"role": "user", "content": "red"}]})", 2);
    ADD_FAILURE() << "accepted";
  } catch (const UnsupportedError& e) {
    EXPECT_EQ(std::string(e.what()).rfind(
                  "chat.jsonl:2: a conversation needs the model's chat template, and the model has none", 0),
              0U)
        << e.what();
    EXPECT_NE(std::string(e.what()).find("{\"text\": \"...\"}"), std::string::npos);
  }
}

TEST_F(JsonlTextTest, TokenizesTheLinesInTheirOrder) {
  write(
      "\xef\xbb\xbf{\"text\": \"red green\"}\r\n\n  \n"
      R"({"messages": [{"role": "user", "content": "blue"}]})");  // no newline at the end
  EXPECT_EQ(tokenize_jsonl(path_, tokenizer_, 1000), (std::vector<int32_t>{6, 7, 1, 8, 5}));
  EXPECT_EQ(tokenize_jsonl(path_, tokenizer_, 1), (std::vector<int32_t>{6, 7}));  // whole documents
}

TEST_F(JsonlTextTest, WhatComesAfterEnoughTokensIsNotRead) {
  write("{\"text\": \"red\"}\nnonsense\n");
  EXPECT_EQ(tokenize_jsonl(path_, tokenizer_, 1), (std::vector<int32_t>{6}));
  try {
    tokenize_jsonl(path_, tokenizer_, 2);
    ADD_FAILURE() << "accepted";
  } catch (const FormatError& e) {
    EXPECT_EQ(std::string(e.what()).rfind(path_ + ":2: expected", 0), 0U) << e.what();
  }
}

TEST_F(JsonlTextTest, RefusesFilesWithoutText) {
  EXPECT_THROW(tokenize_jsonl(path_, tokenizer_, 10), SystemError);  // not there
  for (const char* bad : {"", "\n\n", "\xff\xfe{}", "{\"text\": \"\"}\n"}) {
    write(bad);
    EXPECT_THROW(tokenize_jsonl(path_, tokenizer_, 10), FormatError) << bad;
  }
}

}  // namespace
}  // namespace metal_marlin

// Texts by a JSON schema: whatever a model with random weights would rather say, each is a JSON value that fits.
#include <gtest/gtest.h>
#include <metal_marlin/error.h>
#include <metal_marlin/generate.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "core/files/atomic_file.h"
#include "infer/tiny_models.h"

namespace metal_marlin {
namespace {

using namespace test;
using Json = nlohmann::json;

// The tiny models' own tokenizers have no braces. These have 96 tokens as well: the characters of JSON, parts of it
// that several schemas' rules meet in (`":`, `"},`), and single bytes of an e with an acute accent.
enum class Style { kByteLevel, kSentencePiece };

std::string model_of(Style style) {
  const bool bytes = style == Style::kByteLevel;
  const std::filesystem::path folder =
      std::filesystem::path(::testing::TempDir()) /
      ("json_schema_" + std::string(bytes ? "bytes" : "pieces") + std::to_string(getpid()));
  if (std::filesystem::exists(folder / "tokenizer.json")) return folder.string();
  const std::filesystem::path tiny(tiny_model(bytes ? "llama" : "mistral"));
  std::filesystem::create_directories(folder);
  for (const char* name : {"config.json", "model.safetensors"}) {
    std::filesystem::copy_file(tiny / name, folder / name, std::filesystem::copy_options::overwrite_existing);
  }
  const std::string space = bytes ? "Ġ" : "▁";
  const std::vector<std::string> marks =
      bytes ? std::vector<std::string>{"<|begin|>", "<|endoftext|>"} : std::vector<std::string>{"<unk>", "<s>", "</s>"};
  std::vector<std::string> tokens = marks;
  for (char c = 'a'; c <= 'z'; ++c) tokens.emplace_back(1, c);
  for (const char c : std::string("0123456789{}[]\":,.-\\/_+EABCDETN")) {
    if (std::find(tokens.begin(), tokens.end(), std::string(1, c)) == tokens.end()) tokens.emplace_back(1, c);
  }
  for (const char* byte :
       bytes ? std::vector<const char*>{"Ã", "©", "Ċ"} : std::vector<const char*>{"<0xC3>", "<0xA9>", "<0x0A>"}) {
    tokens.emplace_back(byte);
  }
  tokens.push_back(space);
  Json merges = Json::array();
  const std::pair<const char*, const char*> pairs[] = {{"\"", ":"}, {"{", "\""}, {"\"", "}"},  {"\"}", ","},
                                                       {"\"", ","}, {"[", "]"},  {"tr", "ue"}, {"t", "r"},
                                                       {"u", "e"},  {"1", "2"}};
  for (const auto& [a, b] : pairs) {
    merges.push_back({a, b});
    tokens.push_back(std::string(a) + b);
  }
  for (const char* letter : {"t", "a", "\""}) {
    merges.push_back({space, letter});
    tokens.push_back(space + letter);
  }
  std::sort(merges.begin(), merges.end(), [](const Json& a, const Json& b) { return a[0].size() < b[0].size(); });
  std::stable_sort(merges.begin(), merges.end(), [](const Json& a, const Json& b) {
    return (a[0].get<std::string>() + a[1].get<std::string>()).size() <
           (b[0].get<std::string>() + b[1].get<std::string>()).size();
  });
  EXPECT_LE(tokens.size(), 96u);
  Json vocab = Json::object();
  for (size_t i = 0; i < tokens.size(); ++i) vocab[tokens[i]] = i;
  Json added = Json::array();
  for (size_t i = 0; i < marks.size(); ++i) {
    added.push_back({{"id", i},
                     {"content", marks[i]},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  }
  Json tokenizer = {{"version", "1.0"},
                    {"truncation", nullptr},
                    {"padding", nullptr},
                    {"added_tokens", added},
                    {"normalizer", nullptr},
                    {"pre_tokenizer", nullptr},
                    {"post_processor", nullptr},
                    {"model",
                     {{"type", "BPE"},
                      {"dropout", nullptr},
                      {"unk_token", nullptr},
                      {"continuing_subword_prefix", nullptr},
                      {"end_of_word_suffix", nullptr},
                      {"fuse_unk", false},
                      {"byte_fallback", !bytes},
                      {"vocab", vocab},
                      {"merges", merges}}}};
  if (bytes) {
    tokenizer["pre_tokenizer"] = {
        {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}};
    tokenizer["decoder"] = {
        {"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}};
  } else {
    tokenizer["model"]["unk_token"] = "<unk>";
    tokenizer["model"]["fuse_unk"] = true;
    tokenizer["normalizer"] = {{"type", "Sequence"},
                               {"normalizers",
                                {{{"type", "Prepend"}, {"prepend", "▁"}},
                                 {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "▁"}}}}};
    tokenizer["decoder"] = {{"type", "Sequence"},
                            {"decoders",
                             {{{"type", "Replace"}, {"pattern", {{"String", "▁"}}}, {"content", " "}},
                              {{"type", "ByteFallback"}},
                              {{"type", "Fuse"}},
                              {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}}}}};
  }
  write_text_file((folder / "tokenizer.json").string(), tokenizer.dump());
  return folder.string();
}

// Every token that may come next is about as likely as the others.
GenerateOptions random_options(const std::string& schema, uint64_t seed) {
  GenerateOptions options;
  options.predict = 1500;
  options.context = 2000;
  options.temp = 1;
  options.top_k = 0;
  options.top_p = 1;
  options.min_p = 0;
  options.seed = seed;
  options.json_schema = schema;
  return options;
}

bool whole_in(const Json& value, int64_t least, int64_t most) {
  return value.is_number_integer() && value.get<int64_t>() >= least && value.get<int64_t>() <= most;
}

struct Case {
  const char* schema;
  std::function<bool(const Json&)> fits;  // written by hand, without the schema
};

bool is_list(const Json& v) {
  return v.is_object() && v.size() == 2 && whole_in(v.at("v"), 0, 9) &&
         (v.at("next").is_null() || is_list(v.at("next")));
}

const std::vector<Case>& cases() {
  static const std::vector<Case> kCases = {
      {R"({"type":"object","properties":{"name":{"type":"string","minLength":2,"maxLength":5},
           "age":{"type":"integer","minimum":0,"maximum":130},
           "tags":{"type":"array","items":{"enum":["a","be"]},"minItems":1,"maxItems":3}},
           "required":["name","age"],"additionalProperties":false})",
       [](const Json& v) {
         if (!v.is_object() || !v.contains("name") || !v.contains("age") || v.size() > 3) return false;
         const std::string name = v.at("name").get<std::string>();
         const auto characters = std::count_if(name.begin(), name.end(), [](char c) { return (c & 0xC0) != 0x80; });
         if (characters < 2 || characters > 5 || !whole_in(v.at("age"), 0, 130)) return false;
         if (v.size() == 2) return true;
         const Json& tags = v.at("tags");
         return tags.is_array() && !tags.empty() && tags.size() <= 3 &&
                std::all_of(tags.begin(), tags.end(), [](const Json& t) { return t == "a" || t == "be"; });
       }},
      {R"({"enum":["red","green",12,null,{"a":[true]}]})",
       [](const Json& v) {
         return v == "red" || v == "green" || v == 12 || v.is_null() || v == Json::parse(R"({"a":[true]})");
       }},
      {R"({"type":"integer","minimum":-17,"maximum":204})", [](const Json& v) { return whole_in(v, -17, 204); }},
      {R"({"type":"integer","exclusiveMinimum":0,"multipleOf":7,"maximum":99})",
       [](const Json& v) { return whole_in(v, 1, 99) && v.get<int64_t>() % 7 == 0; }},
      {R"({"type":"number","minimum":0.5,"exclusiveMaximum":2})",
       [](const Json& v) { return v.is_number() && v.get<double>() >= 0.5 && v.get<double>() < 2; }},
      {R"({"type":"array","items":{"type":"integer","minimum":1,"maximum":6},"minItems":2,"maxItems":4})",
       [](const Json& v) {
         return v.is_array() && v.size() >= 2 && v.size() <= 4 &&
                std::all_of(v.begin(), v.end(), [](const Json& n) { return whole_in(n, 1, 6); });
       }},
      {R"({"type":"array","prefixItems":[{"const":"x"},{"type":"boolean"}],"items":false,"minItems":2})",
       [](const Json& v) { return v.is_array() && v.size() == 2 && v[0] == "x" && v[1].is_boolean(); }},
      {R"({"type":"object","required":["a"],"additionalProperties":false,"properties":{"a":{"type":"object",
           "required":["b"],"additionalProperties":false,"properties":{"b":{"type":"array","minItems":1,"maxItems":2,
           "items":{"type":"array","items":{"const":"x"},"maxItems":1}}}}}})",
       [](const Json& v) {
         if (v.size() != 1 || v.at("a").size() != 1) return false;
         const Json& b = v.at("a").at("b");
         return b.is_array() && !b.empty() && b.size() <= 2 && std::all_of(b.begin(), b.end(), [](const Json& i) {
                  return i.is_array() && (i.empty() || i == Json::parse(R"(["x"])"));
                });
       }},
      {R"({"type":"string","pattern":"^[a-f]{2,4}-[0-9]{3}$"})",
       [](const Json& v) {
         const std::string text = v.get<std::string>();
         const size_t dash = text.find('-');
         return dash >= 2 && dash <= 4 && text.size() == dash + 4 && text.find_first_not_of("abcdef") == dash &&
                text.find_first_not_of("0123456789", dash + 1) == std::string::npos;
       }},
      {R"({"type":"string","format":"date"})",
       [](const Json& v) {
         int year = 0;
         int month = 0;
         int day = 0;
         const std::string text = v.get<std::string>();
         return text.size() == 10 && std::sscanf(text.c_str(), "%4d-%2d-%2d", &year, &month, &day) == 3 && month >= 1 &&
                month <= 12 && day >= 1 && day <= 31;
       }},
      {R"({"anyOf":[{"type":"boolean"},{"type":"object","properties":{"x":{"const":"y"}},"required":["x"],
           "additionalProperties":false}]})",
       [](const Json& v) { return v.is_boolean() || v == Json::parse(R"({"x":"y"})"); }},
      {R"({"oneOf":[{"type":"null"},{"type":"integer","minimum":5,"maximum":5}]})",
       [](const Json& v) { return v.is_null() || v == 5; }},
      {R"({"allOf":[{"type":"integer","minimum":3},{"maximum":12}]})",
       [](const Json& v) { return whole_in(v, 3, 12); }},
      {R"({"$defs":{"node":{"type":"object","properties":{"v":{"type":"integer","minimum":0,"maximum":9},
           "next":{"anyOf":[{"$ref":"#/$defs/node"},{"type":"null"}]}},"required":["v","next"],
           "additionalProperties":false}},"$ref":"#/$defs/node"})",
       is_list},
      {R"({"const":"é"})", [](const Json& v) { return v == "é"; }},
      // What a schema says to the library is no keyword: with it every object would do.
      {R"({"x-guidance":{"lenient":true,"coerce_one_of":true},"type":["boolean","null"]})",
       [](const Json& v) { return v.is_boolean() || v.is_null(); }},
  };
  return kCases;
}

TEST(JsonSchema, EveryTextIsJsonThatFits) {
  for (const Style style : {Style::kByteLevel, Style::kSentencePiece}) {
    TextGenerator generator(model_of(style));
    for (const Case& c : cases()) {
      std::set<std::string> texts;
      for (uint64_t seed = 0; seed < 20; ++seed) {
        GenerateOptions options = random_options(c.schema, seed);
        if (seed == 19) options.temp = 0;
        if (seed == 18) options.repeat_penalty = 1.3;
        GenerateStats stats;
        const std::string text = generator.generate("the cat", options, {}, &stats);
        if (seed == 19 && stats.stop == "length") continue;  // the likeliest token may repeat a part without end
        EXPECT_EQ(stats.stop, "eos") << c.schema << ": " << text;
        const Json value = Json::parse(text, nullptr, false);
        ASSERT_FALSE(value.is_discarded()) << c.schema << ": " << text;
        EXPECT_TRUE(c.fits(value)) << c.schema << ": " << text;
        texts.insert(text);
      }
      if (!std::string(c.schema).starts_with(R"({"const")")) EXPECT_GT(texts.size(), 1u) << c.schema;
    }
  }
}

// The families' own tokenizers, and those of GGUF files.
TEST(JsonSchema, TokenizersOfEveryKind) {
  for (const char* name : {"llama", "qwen2", "qwen3", "mistral", "phi3", "gemma2", "gemma3", "gguf/llama.gguf",
                           "gguf/mistral.gguf", "gguf/gemma3.gguf", "gguf/qwen2.gguf"}) {
    TextGenerator generator(tiny_model(name));
    for (uint64_t seed = 0; seed < 10; ++seed) {
      const auto text = [&](const char* schema) { return generator.generate("the cat", random_options(schema, seed)); };
      EXPECT_TRUE(whole_in(Json::parse(text(R"({"type":"integer","minimum":10,"maximum":99})")), 10, 99)) << name;
      const Json word = Json::parse(text(R"({"enum":["the cat","we sat, on it","id"]})"));
      EXPECT_TRUE(word == "the cat" || word == "we sat, on it" || word == "id") << name << ": " << word;
      const Json free = Json::parse(text(R"({"type":"string","maxLength":12})"));
      EXPECT_TRUE(free.is_string() && free.get<std::string>().size() <= 12) << name << ": " << free;
    }
  }
}

TEST(JsonSchema, ABatchGivesWhatEachTextIsAlone) {
  TextGenerator generator(model_of(Style::kByteLevel));
  std::vector<BatchRequest> requests;
  for (size_t i = 0; i < 14; ++i) {
    BatchRequest& request = requests.emplace_back();
    request.prompt = i % 2 == 0 ? "the" : "a b c";
    request.options = random_options(i == 5 ? "" : cases()[i % 3].schema, i);
    if (i == 5) request.options.predict = 9;
  }
  requests[7].options.json_schema = R"({"type":"object","not":{}})";
  std::map<size_t, BatchAnswer> answers;
  generator.batch(requests, 4, [&](size_t index, const BatchAnswer& answer) {
    answers[index] = answer;
    return true;
  });
  ASSERT_EQ(answers.size(), requests.size());
  for (size_t i = 0; i < requests.size(); ++i) {
    if (i == 7) {
      EXPECT_NE(answers[i].error.find("json_schema: this JSON schema cannot be used: "), std::string::npos)
          << answers[i].error;
      EXPECT_NE(answers[i].error.find("not"), std::string::npos);
      continue;
    }
    GenerateStats stats;
    EXPECT_EQ(answers[i].error, "");
    EXPECT_EQ(answers[i].text, generator.generate(requests[i].prompt, requests[i].options, {}, &stats)) << i;
    EXPECT_EQ(answers[i].stats.stop, stats.stop);
    EXPECT_EQ(answers[i].stats.generated_tokens, stats.generated_tokens);
  }
}

TEST(JsonSchema, SpeculationDoesNotChangeTheText) {
  TextGenerator generator(model_of(Style::kByteLevel));
  const std::string prompt = R"({"v":1,"next":{"v":1,"next":{"v":1,"next":{"v":1,"next":)";
  int64_t drafted = 0;
  for (const Case& c : cases()) {
    for (uint64_t seed = 0; seed < 3; ++seed) {
      GenerateOptions options = random_options(c.schema, seed);
      options.predict = 120;
      if (seed == 0) options.temp = 0;
      GenerateStats plain;
      GenerateStats stats;
      const std::string text = generator.generate(prompt, options, {}, &plain);
      options.speculate = 6;
      EXPECT_EQ(generator.generate(prompt, options, {}, &stats), text) << c.schema;
      EXPECT_EQ(stats.stop, plain.stop);
      EXPECT_EQ(stats.generated_tokens, plain.generated_tokens);
      drafted += stats.drafted_tokens;
    }
  }
  EXPECT_GT(drafted, 0);
}

TEST(JsonSchema, WhatEndsAText) {
  TextGenerator generator(model_of(Style::kSentencePiece));
  GenerateStats stats;
  std::vector<std::string> warnings;
  GenerateOptions options = random_options(R"({"const":"abc"})", 1);
  options.on_warning = [&](const std::string& text) { warnings.push_back(text); };
  // Nothing may follow: no end token is needed, not even asked for.
  options.ignore_eos = true;
  EXPECT_EQ(Json::parse(generator.generate("the", options, {}, &stats)), "abc");
  EXPECT_EQ(stats.stop, "eos");
  EXPECT_EQ(std::count(warnings.begin(), warnings.end(),
                       "ignore_eos is without effect beside json_schema: the text ends with the JSON value"),
            1);
  options.ignore_eos = false;
  warnings.clear();
  // A number may end or go on.
  options.json_schema = R"({"type":"integer"})";
  EXPECT_TRUE(Json::parse(generator.generate("the", options, {}, &stats)).is_number_integer());
  EXPECT_EQ(stats.stop, "eos");
  // The limit.
  options.json_schema = R"({"const":"abcdefghijklmnop"})";
  options.predict = 5;
  EXPECT_TRUE(Json::parse(generator.generate("the", options, {}, &stats), nullptr, false).is_discarded());
  EXPECT_EQ(stats.stop, "length");
  ASSERT_EQ(warnings.back(),
            "the JSON is incomplete: the limit of 5 tokens ended it; raise the limit (predict, context)");
  warnings.clear();
  options.predict = 100;
  options.stop = {"fgh"};
  const std::string cut = generator.generate("the", options, {}, &stats);
  EXPECT_TRUE(cut.ends_with("abcde")) << cut;
  EXPECT_EQ(stats.stop, "string");
  for (const std::string& warning : warnings) EXPECT_EQ(warning.find("incomplete"), std::string::npos) << warning;
}

TEST(JsonSchema, WhatCannotBeUsedIsSaid) {
  TextGenerator generator(model_of(Style::kByteLevel));
  const auto refused = [&](const std::string& schema, const std::string& part) {
    GenerateOptions options = random_options(schema, 0);
    options.json_schema_name = "answer.json";
    for (int again = 0; again < 2; ++again) {
      try {
        const std::string text = generator.generate("the", options);
        FAIL() << schema.substr(0, 100) << ": " << text;
      } catch (const FormatError& error) {
        const std::string message = error.what();
        EXPECT_TRUE(message.starts_with("answer.json: ")) << message;
        EXPECT_NE(message.find(part), std::string::npos) << message;
        EXPECT_EQ(message.find('\n'), std::string::npos) << message;
      }
    }
  };
  refused("{", "no valid JSON");
  refused("3", "expected a JSON schema, an object, found number");
  refused("false", "no value fits");
  refused(R"({"type":"object","uniqueItems":true})", "uniqueItems");
  refused(R"({"type":"integer","minimum":5,"maximum":3})", "minimum");
  refused(R"({"type":"string","format":"no such"})", "no such");
  refused(R"({"type":"string","pattern":"("})", "cannot be used");
  refused(R"({"$ref":"#/$defs/none"})", "none");
  refused(R"({"$ref":"http://127.0.0.1:9/x.json"})", "cannot be used");
  refused(R"({"$ref":"file:///etc/passwd"})", "cannot be used");
  refused(R"({"oneOf":[{"type":"integer"},{"minimum":3,"type":"integer"}]})", "write anyOf");
  refused(std::string(70, '[') + std::string(70, ']'), "64 levels");
  refused("{\"enum\":[" + std::string(120000, '1') + "]}", "within the range of a double");
  refused(std::string(size_t{3} << 20, ' '), "bytes");
  std::string many = "{\"enum\":[0";
  for (int i = 1; i < 60000; ++i) many += "," + std::to_string(i);
  refused(many + "]}", "50000 values");
  // The model's own tokenizer has no brace.
  TextGenerator other(tiny_model("llama"));
  EXPECT_THROW(
      {
        try {
          other.generate("the", random_options(R"({"type":"object"})", 0));
        } catch (const FormatError& error) {
          EXPECT_NE(std::string(error.what()).find("the vocabulary has no token to begin one"), std::string::npos)
              << error.what();
          throw;
        }
      },
      FormatError);
}

// The first tokens are there, a later one is not: one text of a batch ends in an error, the others are answered.
TEST(JsonSchema, ATextThatCannotGoOnDoesNotEndTheBatch) {
  TextGenerator generator(tiny_model("llama"));
  std::vector<BatchRequest> requests(3);
  for (BatchRequest& request : requests) {
    request.prompt = "the";
    request.options = random_options(R"({"const":"abc"})", 0);
  }
  requests[1].options.json_schema = R"({"type":"string","pattern":"^ab\\{$"})";
  std::map<size_t, BatchAnswer> answers;
  generator.batch(requests, 2, [&](size_t index, const BatchAnswer& answer) {
    answers[index] = answer;
    return true;
  });
  EXPECT_EQ(Json::parse(answers[0].text), "abc");
  EXPECT_EQ(Json::parse(answers[2].text), "abc");
  EXPECT_EQ(answers[1].error,
            "json_schema: a text by this JSON schema cannot go on: no token of the vocabulary continues the value");
}

TEST(JsonSchema, AFileOfPromptsWithSchemas) {
  const std::string folder = ::testing::TempDir() + "json_schema_file" + std::to_string(getpid());
  std::filesystem::create_directories(folder);
  const std::string input = folder + "/in.jsonl";
  const std::string output = folder + "/out.jsonl";
  // In the second the properties come in the order of the schema, not in that of the alphabet.
  write_text_file(input,
                  "{\"prompt\":\"the\"}\n"
                  "{\"prompt\":\"the\",\"json_schema\":{\"type\":\"object\",\"properties\":{\"z\":{\"const\":1},"
                  "\"a\":{\"const\":2}},\"required\":[\"z\",\"a\"],\"additionalProperties\":false}}\n"
                  "{\"prompt\":\"the\",\"json_schema\":{\"if\":{}}}\n"
                  "{\"prompt\":\"the\",\"json_schema\":\"x\"}\n"
                  "{\"prompt\":\"the\",\"json_schema\":null}\n");
  TextGenerator generator(model_of(Style::kByteLevel));
  const BatchFileResult result = generate_file(generator, input, output, random_options(R"({"const":"abc"})", 3), 2);
  EXPECT_EQ(result.answered, 3);
  ASSERT_EQ(result.failures.size(), 2u);
  std::vector<std::string> failures = result.failures;
  std::sort(failures.begin(), failures.end());
  EXPECT_TRUE(failures[0].starts_with(input + ", line 3: \"json_schema\": this JSON schema cannot be used: "))
      << failures[0];
  EXPECT_EQ(failures[1], input + ", line 4: \"json_schema\": expected an object, found string");
  std::istringstream stream(read_text_file(output));
  std::vector<Json> lines;
  for (std::string line; std::getline(stream, line);) lines.push_back(Json::parse(line));
  ASSERT_EQ(lines.size(), 5u);
  EXPECT_EQ(Json::parse(lines[0].at("text").get<std::string>()), "abc");
  const std::string pair = lines[1].at("text");
  EXPECT_EQ(Json::parse(pair), Json::parse(R"({"z":1,"a":2})"));
  EXPECT_LT(pair.find("\"z\""), pair.find("\"a\""));
  EXPECT_EQ(Json::parse(lines[4].at("text").get<std::string>()), "abc");
}

}  // namespace
}  // namespace metal_marlin

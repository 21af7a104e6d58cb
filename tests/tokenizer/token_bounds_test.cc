#include "tokenizer/token_bounds.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "tokenizer/tokenizer.h"
#include "tokenizer/tokenizer_json.h"
#include "tokenizer/vocabulary/gguf_tokenizer.h"
#include "tokenizer/vocabulary/sentencepiece_model.h"

namespace metal_marlin {
namespace {

using Json = nlohmann::json;

std::string message_of(const auto& call) {
  try {
    call();
  } catch (const FormatError& e) {
    return e.what();
  }
  return "no error";
}

std::string refusal(const Json& json) {
  return message_of([&] { check_tokenizer_json(json.dump(), "m/tokenizer.json"); });
}

const std::string kLong(kLongestToken + 1, 'a');
const std::string kJust(kLongestToken, 'a');

TEST(TokenBounds, LongTextsOfATokenizerAreRefusedWithTheirKey) {
  const std::pair<Json, std::string> cases[] = {
      {{{"version", kLong}}, "tokenizer.json: version: "},
      {{{"added_tokens", {{{"id", 1}, {"content", kLong}}}}}, "tokenizer.json: added_tokens: "},
      {{{"model", {{"vocab", {{kLong, 1}}}}}}, "tokenizer.json: model.vocab: "},
      {{{"model", {{"type", "Unigram"}, {"vocab", {{kLong, -1.5}}}}}}, "tokenizer.json: model.vocab: "},
      {{{"model", {{"merges", {kJust + " " + kLong}}}}}, "tokenizer.json: model.merges: "},
      {{{"model", {{"unk_token", kLong}}}}, "tokenizer.json: model.unk_token: "},
      {{{"post_processor", {{"special_tokens", {{kLong, {{"ids", {1}}}}}}}}}, "tokenizer.json: post_processor."},
      {{{"pre_tokenizer", {{"behavior", kLong}}}}, "tokenizer.json: pre_tokenizer.behavior: "},
  };
  for (const auto& [json, expected] : cases) {
    const std::string message = refusal(json);
    EXPECT_NE(message.find(expected), std::string::npos) << message;
    EXPECT_NE(message.find("at most"), std::string::npos) << message;
    EXPECT_LT(message.size(), 600U);
  }
  EXPECT_EQ(refusal({{"model", {{"vocab", {{kJust, 1}}}, {"merges", {kJust + " " + kJust}}}},
                     {"normalizer", {{"precompiled_charsmap", std::string(1 << 20, 'A')}}}}),
            "no error");
  EXPECT_NE(refusal({{"normalizer", {{"precompiled_charsmap", std::string(17 << 20, 'A')}}}}), "no error");
}

TEST(TokenBounds, AddedTokensAreBoundedTogether) {
  Json list = Json::array();
  for (int i = 0; i < 65; ++i)
    list.push_back({{"id", i}, {"content", std::string(kLongestToken - 4, 'a') + std::to_string(i)}});
  EXPECT_NE(refusal({{"added_tokens", list}}).find("added_tokens: expected at most"), std::string::npos);
  // The library reads a key with escapes as the same key.
  std::string text = Json({{"added_tokens", list}}).dump();
  text.replace(text.find("added_tokens"), 12, "added\\u005ftokens");
  EXPECT_NE(message_of([&] { check_tokenizer_json(text, "f"); }), "no error");
  text = Json({{"added_tokens", list}}).dump();
  for (size_t at = 0; (at = text.find("\"content\"", at)) != std::string::npos; ++at)
    text.replace(at, 9, "\"c\\u006fntent\"");
  EXPECT_NE(message_of([&] { check_tokenizer_json(text, "f"); }), "no error");
  // Many short ones.
  list = Json::array();
  for (size_t i = 0; i <= kMostAddedTokens; ++i) list.push_back({{"content", std::to_string(i)}});
  EXPECT_NE(refusal({{"added_tokens", list}}), "no error");
  list.erase(0);
  EXPECT_EQ(refusal({{"added_tokens", list}}), "no error");
}

TEST(TokenBounds, WhatIsNoJsonPasses) {
  for (const char* text : {"", "\"", "\"a", "\"a\\", "{\"a\\\"", "]]]\"a\":", "{\"a\" :", "\\"})
    EXPECT_EQ(message_of([&] { check_tokenizer_json(text, "f"); }), "no error");
}

class BesideFiles : public ::testing::Test {
 protected:
  void SetUp() override {
    const Json json = {{"model", {{"type", "WordLevel"}, {"vocab", {{"a", 0}, {"[UNK]", 1}}}, {"unk_token", "[UNK]"}}}};
    files_.tokenizer_json = json.dump();
  }
  std::string refusal() const {
    return message_of([&] { Tokenizer::from_files(files_, "m"); });
  }
  TokenizerFiles files_;
};

TEST_F(BesideFiles, LongTokensAreRefused) {
  ASSERT_EQ(refusal(), "no error");
  const auto names = [&](const char* file, const char* key) {
    const std::string message = refusal();
    EXPECT_NE(message.find(file), std::string::npos) << message;
    EXPECT_NE(message.find(key), std::string::npos) << message;
    EXPECT_NE(message.find("65536 bytes"), std::string::npos) << message;
    EXPECT_LT(message.size(), 1000U);
    const std::string kept = files_.tokenizer_json;
    files_ = {};
    files_.tokenizer_json = kept;
  };
  files_.added_tokens_json = Json({{kLong, 2}}).dump();
  names("m/added_tokens.json", "token aaa");
  files_.tokenizer_config_json = Json({{"added_tokens_decoder", {{"2", {{"content", kLong}}}}}}).dump();
  names("m/tokenizer_config.json", "added_tokens_decoder");
  files_.tokenizer_config_json = Json({{"bos_token", kLong}}).dump();
  names("m/tokenizer_config.json", "bos_token");
  files_.special_tokens_map_json = Json({{"eos_token", {{"content", kLong}}}}).dump();
  names("m/special_tokens_map.json", "eos_token");
  files_.special_tokens_map_json = Json({{"additional_special_tokens", {kLong}}}).dump();
  names("m/special_tokens_map.json", "additional_special_tokens");
}

TEST_F(BesideFiles, ManyBytesOfTokensTogetherAreRefused) {
  Json tokens = Json::object();
  for (int i = 0; i < 65; ++i) tokens[std::string(kLongestToken - 4, 'a') + std::to_string(i)] = i + 2;
  files_.added_tokens_json = tokens.dump();
  const std::string message = refusal();
  EXPECT_NE(message.find("m: the files beside"), std::string::npos) << message;
}

TEST(TokenBounds, LongPiecesAndTokensOfOtherVocabulariesAreRefused) {
  GgufTokenizerData gguf;
  gguf.model = "llama";
  gguf.tokens = {"<unk>", "<s>", "</s>", kLong};
  gguf.token_types = {2, 3, 3, 4};
  gguf.scores = {0, 0, 0, 0};
  std::string message = message_of([&] { rebuild_gguf_tokenizer(gguf, "m.gguf"); });
  EXPECT_NE(message.find("m.gguf: tokenizer.ggml.tokens: "), std::string::npos) << message;
  EXPECT_LT(message.size(), 600U);

  const auto varint = [](size_t n) {
    std::string out;
    for (; n > 127; n >>= 7) out += static_cast<char>((n & 127) | 128);
    return out + static_cast<char>(n);
  };
  const std::string piece = "\x0A" + varint(kLong.size()) + kLong + "\x18\x04";
  const std::string model = "\x0A" + varint(piece.size()) + piece;
  message = message_of([&] { tokenizer_from_sentencepiece(model, "m/tokenizer.model", "", ""); });
  EXPECT_NE(message.find("m/tokenizer.model: "), std::string::npos) << message;
  EXPECT_NE(message.find("65536 bytes"), std::string::npos) << message;
}

// Small entries take many times their bytes of the file.
TEST(TokenBounds, CountsOfVocabulariesAreBounded) {
  std::string model;
  for (size_t i = 0; i <= kMostTokens; ++i) model += std::string("\x0A\x00", 2);
  std::string message = message_of([&] { tokenizer_from_sentencepiece(model, "m/tokenizer.model", "", ""); });
  EXPECT_NE(message.find("m/tokenizer.model: pieces: expected at most 1048576"), std::string::npos) << message;

  GgufTokenizerData gguf;
  gguf.model = "llama";
  for (size_t i = 0; i <= kMostAddedTokens; ++i) gguf.tokens.push_back(std::to_string(i));
  gguf.token_types.assign(gguf.tokens.size(), 4);
  gguf.scores.assign(gguf.tokens.size(), 0);
  message = message_of([&] { rebuild_gguf_tokenizer(gguf, "m.gguf"); });
  EXPECT_NE(message.find("m.gguf: tokenizer.ggml.token_type: expected at most 131072"), std::string::npos) << message;

  gguf.model = "gpt2";
  gguf.tokens = {"<unk>", "a", "b", "ab"};
  gguf.token_types = {2, 1, 1, 1};
  gguf.merges.assign(kMostTokens + 1, "a b");
  message = message_of([&] { rebuild_gguf_tokenizer(gguf, "m.gguf"); });
  EXPECT_NE(message.find("m.gguf: tokenizer.ggml.merges: expected at most 1048576"), std::string::npos) << message;
}

// A post-processor that adds an id beyond 32 bits, or beyond the vocabulary.
TEST(TokenBounds, IdsOfAPostProcessorAreThoseOfTokens) {
  for (const int64_t id : {int64_t{2}, int64_t{2'000'000'000}, int64_t{4'000'000'000}}) {
    const Json json = {
        {"model", {{"type", "WordLevel"}, {"vocab", {{"a", 0}, {"[UNK]", 1}}}, {"unk_token", "[UNK]"}}},
        {"post_processor",
         {{"type", "TemplateProcessing"},
          {"single",
           {{{"SpecialToken", {{"id", "a"}, {"type_id", 0}}}}, {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}},
          {"pair", {{{"Sequence", {{"id", "A"}, {"type_id", 0}}}}, {{"Sequence", {{"id", "B"}, {"type_id", 1}}}}}},
          {"special_tokens", {{"a", {{"id", "a"}, {"ids", {id}}, {"tokens", {"a"}}}}}}}}};
    const Tokenizer tokenizer = Tokenizer::from_json(json.dump(), "m/tokenizer.json");
    const std::string message = message_of([&] { tokenizer.encode("a", true); });
    EXPECT_NE(message.find("m/tokenizer.json: post_processor: "), std::string::npos) << message;
    EXPECT_NE(message.find(std::to_string(id)), std::string::npos) << message;
  }
}

// What the library says of a text of the file is cut.
Json bpe(const Json& vocabulary, const Json& merges, const Json& prefix = nullptr) {
  return {
      {"version", "1.0"},
      {"truncation", nullptr},
      {"padding", nullptr},
      {"added_tokens", Json::array()},
      {"normalizer", nullptr},
      {"pre_tokenizer", nullptr},
      {"post_processor", nullptr},
      {"decoder", nullptr},
      {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", merges}, {"continuing_subword_prefix", prefix}}}};
}

std::string loading(const Json& json) {
  return message_of([&] { Tokenizer::from_json(json.dump(), "m/tokenizer.json"); });
}

Json list(const std::vector<Json>& entries) {
  Json out = Json::array();
  for (const Json& entry : entries) out.push_back(entry);
  return out;
}

// The library cuts a prefix off as so many bytes, whatever they are, and takes the rest for UTF-8.
TEST(TokenBounds, MergesMustFitTheirVocabulary) {
  const Json letters = {{"a", 0}, {"b", 1}};
  const Json accents = {{"a", 0}, {"\u00e9", 1}, {"a\u00e9", 2}, {"\u00e9\u00e9", 3}};
  const std::pair<Json, std::string> cases[] = {
      {bpe(accents, list({list({"a", "\u00e9"}), list({"\u00e9", "\u00e9"})}), "a"),
       "that begin with the continuing_subword_prefix \"a\", found \"\u00e9\""},
      {bpe({{"a", 0}, {"b", 1}, {"ab", 2}}, list({list({"a", "b"})}), "##"), "continuing_subword_prefix"},
      {bpe({{"a", 0}, {"abab", 1}}, list({list({"abab", "abab"})})), "no token is \"abab\" and \"abab\" together"},
      {bpe(letters, list({list({"a", "b", "c"})})), "expected two tokens, found more"},
      {bpe(letters, list({list({"a"})})), "expected two tokens, found fewer"},
      {bpe(letters, list({"a b c"})), "model.merges: number 1: expected two tokens"},
      {bpe(letters, list({3})), "two tokens"},
      {bpe({{"a", -1}, {"b", 1}}, Json::array()), "m/tokenizer.json: "},
  };
  for (const auto& [json, expected] : cases) {
    const std::string message = loading(json);
    EXPECT_NE(message.find(expected), std::string::npos) << message;
    EXPECT_TRUE(message.starts_with("m/tokenizer.json: ")) << message;
  }
  for (const Json& merges : {list({list({"a", "b"}), list({"ab", "a"})}), list({"#version: 0.2", "a b", "ab a"})}) {
    const Tokenizer t = Tokenizer::from_json(bpe({{"a", 0}, {"b", 1}, {"ab", 2}, {"aba", 3}}, merges).dump(), "x");
    EXPECT_EQ(t.encode("ababa", false), (std::vector<int32_t>{2, 3}));
  }
}

TEST(TokenBounds, ALibraryThatPanicsIsToldWithFileAndPlace) {
  Json json = bpe({{"a", 0}, {"b", 1}}, Json::array());
  json["pre_tokenizer"] = {{"type", "FixedLength"}, {"length", 0}};
  const std::string message =
      message_of([&] { Tokenizer::from_json(json.dump(), "m/tokenizer.json").encode("abab", false); });
  EXPECT_NE(message.find("m/tokenizer.json: "), std::string::npos) << message;
  EXPECT_NE(message.find("gives up on a value of it ("), std::string::npos) << message;
  for (const char* word : {"panic", "internal error", "unwrap", "chunk", "non-zero", ".cargo", "/registry/"})
    EXPECT_EQ(message.find(word), std::string::npos) << message;
}

// The memory ends in code that lives with failed allocations: unwinding, which begins with one, must find some.
TEST(TokenBounds, MemoryThatEndsInManyDeepPartsIsAnError) {
  std::string part = R"({"type":"Lowercase"})";
  for (int i = 0; i < 40; ++i) part = R"({"type":"Sequence","normalizers":[)" + part + "]}";
  std::string parts = part;
  for (int i = 1; i < 20'000; ++i) parts += "," + part;
  Json json = bpe({{"a", 0}, {"b", 1}}, Json::array());
  std::string text = json.dump();
  const std::string none = "\"normalizer\":null";
  text.replace(text.find(none), none.size(), R"("normalizer":{"type":"Sequence","normalizers":[)" + parts + "]}");
  const std::string message = message_of([&] { Tokenizer::from_json(text, "m/tokenizer.json"); });
  EXPECT_NE(message.find("m/tokenizer.json: to load, it takes more than the limit of"), std::string::npos) << message;
}

// Written, and not built as values: the texts must be the same.
TEST(TokenBounds, TheTextOfAVocabularyIsThatOfItsValues) {
  Vocabulary v;
  v.tokens = {"b", "a", "\"", "\\", "\n", "\x7f", "\u00e9", "\u2581the", "merges", "vocab", "null", "ab"};
  const MergeList merges = {{"a", "b"}, {"\"", "\n"}, {"\u2581the", "\u00e9"}};
  Json frame = {{"added_tokens", Json::array()}, {"model", {{"type", "BPE"}, {"vocab", nullptr}, {"merges", nullptr}}}};
  const std::string text = bpe_text(frame, v, merges);
  frame["model"]["vocab"] = Json::object();
  for (size_t i = 0; i < v.tokens.size(); ++i) frame["model"]["vocab"][v.tokens[i]] = i;
  frame["model"]["merges"] = Json::array();
  for (const auto& [left, right] : merges) frame["model"]["merges"].push_back({left, right});
  EXPECT_EQ(text, frame.dump());
}

TEST(TokenBounds, MessagesOfTheLibraryAreCut) {
  Json json = {
      {"model", {{"type", "WordLevel"}, {"vocab", {{"a", 0}}}, {"unk_token", "a"}}},
      {"pre_tokenizer",
       {{"type", "Split"}, {"pattern", {{"String", " "}}}, {"behavior", std::string(60000, 'x')}, {"invert", false}}}};
  const std::string message = message_of([&] { Tokenizer::from_json(json.dump(), "m/tokenizer.json"); });
  EXPECT_NE(message.find("m/tokenizer.json"), std::string::npos);
  EXPECT_LT(message.size(), 1000U);
}

}  // namespace
}  // namespace metal_marlin

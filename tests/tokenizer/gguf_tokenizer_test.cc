#include "tokenizer/vocabulary/gguf_tokenizer.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "tokenizer/tokenizer.h"
#include "tokenizer/vocabulary/gguf_pre_tokenizers.h"

namespace metal_marlin {
namespace {

using Json = nlohmann::json;

Json golden(const std::string& name) {
  std::ifstream in(std::string(TEST_DATA) + "/tokenizer/" + name);
  return Json::parse(in);
}

GgufTokenizerData data_of(const Json& j) {
  GgufTokenizerData d;
  d.model = j.at("model");
  d.tokens = j.at("tokens").get<std::vector<std::string>>();
  d.token_types = j.at("token_types").get<std::vector<int32_t>>();
  if (j.contains("merges")) d.merges = j["merges"].get<std::vector<std::string>>();
  if (j.contains("scores")) d.scores = j["scores"].get<std::vector<float>>();
  if (j.contains("add_space_prefix")) d.add_space_prefix = j["add_space_prefix"].get<bool>();
  d.bos = j.at("bos").get<int64_t>();
  d.eos = j.at("eos").get<int64_t>();
  d.unk = j.at("unk").get<int64_t>();
  return d;
}

GgufTokenizerData bpe() {
  static const Json j = golden("bpe.json");
  return data_of(j);
}

GgufTokenizerData sentencepiece() {
  static const Json j = golden("sentencepiece.json");
  return data_of(j["cases"]["bpe"]["gguf"]);
}

Tokenizer rebuilt(const GgufTokenizerData& d) {
  const RebuiltTokenizer r = rebuild_gguf_tokenizer(d, "model.gguf");
  TokenizerFiles files;
  files.tokenizer_json = r.tokenizer_json;
  files.tokenizer_config_json = r.tokenizer_config_json;
  files.generation_config_json = r.generation_config_json;
  return Tokenizer::from_files(files, "model");
}

template <class E>
std::string refused(const GgufTokenizerData& d) {
  try {
    rebuild_gguf_tokenizer(d, "model.gguf");
  } catch (const E& e) {
    return e.what();
  } catch (const std::exception& e) {
    ADD_FAILURE() << "another kind of error: " << e.what();
    return {};
  }
  ADD_FAILURE() << "accepted";
  return {};
}

TEST(GgufTokenizer, ByteLevelIdsEqualMergingByHand) {
  const Json j = golden("bpe.json");
  const auto texts = j["texts"].get<std::vector<std::string>>();
  ASSERT_GE(j["ids"].size(), 9u);
  for (const auto& [pre, ids] : j["ids"].items()) {
    GgufTokenizerData d = data_of(j);
    d.pre = pre;
    d.add_bos = false;
    const Tokenizer t = rebuilt(d);
    for (size_t i = 0; i < texts.size(); ++i) {
      const auto got = t.encode(texts[i], false);
      EXPECT_EQ(got, ids[i].get<std::vector<int32_t>>()) << pre << ": " << texts[i];
      if (pre == "qwen2") continue;  // it brings text to NFC
      EXPECT_EQ(t.decode(got, false), texts[i]) << pre;
    }
  }
}

TEST(GgufTokenizer, SentencePieceIdsEqualThePackage) {
  const Json j = golden("sentencepiece.json");
  const auto texts = j["texts"].get<std::vector<std::string>>();
  for (const char* name : {"bpe", "bpe_no_prefix"}) {
    const Json& c = j["cases"][name];
    GgufTokenizerData d = data_of(c["gguf"]);
    d.add_bos = false;
    const Tokenizer t = rebuilt(d);
    for (size_t i = 0; i < texts.size(); ++i) {
      const auto ids = t.encode(texts[i], true);
      EXPECT_EQ(ids, c["ids"][i].get<std::vector<int32_t>>()) << name << ": " << texts[i];
      EXPECT_EQ(t.decode(ids, true), c["decoded"][i].get<std::string>()) << name;
    }
  }
}

TEST(GgufTokenizer, EveryPreTokenizerCutsWithoutLoss) {
  const auto texts = golden("bpe.json")["texts"].get<std::vector<std::string>>();
  for (const auto name : gguf_pre_tokenizer_names()) {
    GgufTokenizerData d = bpe();
    d.pre = name;
    d.add_bos = false;
    if (!gguf_pre_tokenizer(name, "").byte_level)
      d = [&] {
        GgufTokenizerData s = sentencepiece();
        s.model = "gpt2";
        s.pre = name;
        s.add_bos = false;
        // One merge will do: a token of two characters that are tokens too.
        const std::set<std::string> known(s.tokens.begin(), s.tokens.end());
        for (const std::string& token : s.tokens) {
          if (token.size() != 2 || !known.contains(token.substr(0, 1)) || !known.contains(token.substr(1))) continue;
          s.merges = {token.substr(0, 1) + " " + token.substr(1)};
        }
        return s;
      }();
    const Tokenizer t = rebuilt(d);
    if (gguf_pre_tokenizer(name, "").nfc) continue;
    for (const auto& text : texts) EXPECT_EQ(t.decode(t.encode(text, false), false), text) << name;
  }
}

TEST(GgufTokenizer, AddsBosWhereTheFileOrTheKindSaysSo) {
  GgufTokenizerData d = bpe();
  d.pre = "smollm";
  EXPECT_FALSE(rebuilt(d).adds_bos());
  d.add_bos = true;
  EXPECT_TRUE(rebuilt(d).adds_bos());
  EXPECT_EQ(rebuilt(d).encode("a", true).front(), 1);
  EXPECT_EQ(rebuilt(d).encode("a", false).size(), 1u);
  d.add_bos.reset();
  d.pre = "llama-bpe";
  EXPECT_TRUE(rebuilt(d).adds_bos());
  d = sentencepiece();
  EXPECT_TRUE(rebuilt(d).adds_bos());
  d.add_eos = true;
  const auto ids = rebuilt(d).encode("a", true);
  EXPECT_EQ(ids.front(), 1);
  EXPECT_EQ(ids.back(), 2);
}

TEST(GgufTokenizer, NamesTheSpecialTokensAndTheEnds) {
  GgufTokenizerData d = bpe();
  d.pre = "smollm";
  d.chat_template = "{{ messages }}";
  const Tokenizer t = rebuilt(d);
  EXPECT_EQ(t.bos_token(), "<|im_start|>");
  EXPECT_EQ(t.eos_token(), "<|im_end|>");
  EXPECT_EQ(t.bos_id(), 1);
  EXPECT_EQ(t.eos_ids(), (std::vector<int32_t>{2, 0}));  // <|endoftext|> ends a text, too
  EXPECT_EQ(t.chat_template(), "{{ messages }}");
  EXPECT_EQ(t.vocab_size(), static_cast<int64_t>(d.tokens.size()));
}

TEST(GgufTokenizer, Phi3MarkersSwallowTheSpaceBehind) {
  GgufTokenizerData d = sentencepiece();
  for (const char* token : {"<|placeholder1|>", "<|end|>"}) {
    d.tokens.push_back(token);
    d.token_types.push_back(3);
    d.scores.push_back(0.0f);
  }
  const auto id = static_cast<int32_t>(d.tokens.size()) - 1;
  EXPECT_EQ(rebuilt(d).encode("<|end|>\n\n", false), std::vector<int32_t>{id});
}

TEST(GgufTokenizer, NamesUnknownKinds) {
  GgufTokenizerData d = bpe();
  d.pre = "smollm3-of-tomorrow";
  const std::string message = refused<UnsupportedError>(d);
  EXPECT_NE(message.find("smollm3-of-tomorrow"), std::string::npos);
  EXPECT_NE(message.find("qwen2"), std::string::npos);
  d.model = "bert";
  EXPECT_NE(refused<UnsupportedError>(d).find("bert"), std::string::npos);
}

struct Corruption {
  const char* name;
  const char* says;
  void (*apply)(GgufTokenizerData&);
};

TEST(GgufTokenizer, RefusesNamedCorruptions) {
  using D = GgufTokenizerData;
  const Corruption of_bpe[] = {
      {"no tokens", "tokenizer.ggml.tokens", [](D& d) { d.tokens.clear(), d.token_types.clear(); }},
      {"no merges", "tokenizer.ggml.merges is missing", [](D& d) { d.merges.clear(); }},
      {"no types", "tokenizer.ggml.token_type is missing", [](D& d) { d.token_types.clear(); }},
      {"end beyond the end", "tokenizer.ggml.eot_token_id: expected the id of one of the ",
       [](D& d) { d.ends = {{"tokenizer.ggml.eot_token_id", 1'000'000}}; }},
      {"too few types", "tokenizer.ggml.token_type: expected one type for each of the ",
       [](D& d) { d.token_types.pop_back(); }},
      {"type out of range", "tokenizer.ggml.token_type: expected types from 1 to 6, found type 7 for token 5",
       [](D& d) { d.token_types[5] = 7; }},
      {"type zero", "type 0", [](D& d) { d.token_types[5] = 0; }},
      {"duplicate token", "tokenizer.ggml.tokens: expected each token once", [](D& d) { d.tokens[9] = d.tokens[8]; }},
      {"token not UTF-8", "tokenizer.ggml.tokens: expected texts in UTF-8", [](D& d) { d.tokens[9] = "\xC3"; }},
      {"surrogate", "UTF-8", [](D& d) { d.tokens[9] = "\xED\xA0\x80"; }},
      {"bos beyond the end", "tokenizer.ggml.bos_token_id: expected the id of one of the ",
       [](D& d) { d.bos = static_cast<int64_t>(d.tokens.size()); }},
      {"negative eos", "tokenizer.ggml.eos_token_id: expected the id", [](D& d) { d.eos = -2; }},
      {"huge pad", "tokenizer.ggml.padding_token_id: expected the id", [](D& d) { d.pad = int64_t{1} << 40; }},
      {"merge without a space", "expected two tokens", [](D& d) { d.merges[0] = "ab"; }},
      {"empty merge", "expected two tokens", [](D& d) { d.merges[0] = ""; }},
      {"merge with an empty part", "expected two tokens", [](D& d) { d.merges[0] = "a "; }},
      {"merge of no tokens", "tokenizer.ggml.merges: expected merges of tokens",
       [](D& d) { d.merges[0] = "zzzz qqqq"; }},
      {"merge to no token", "no token", [](D& d) { d.merges[0] = "~ ~"; }},
      {"bos wanted but missing", "add_bos_token", [](D& d) { d.bos.reset(), d.add_bos = true; }},
      {"template not UTF-8", "chat_template", [](D& d) { d.chat_template = "\xFF"; }},
  };
  for (const auto& c : of_bpe) {
    SCOPED_TRACE(c.name);
    GgufTokenizerData d = bpe();
    d.pre = "smollm";
    c.apply(d);
    const std::string message = refused<FormatError>(d);
    EXPECT_NE(message.find(c.says), std::string::npos) << message;
    EXPECT_NE(message.find("model.gguf"), std::string::npos) << message;
    EXPECT_NE(message.find("found "), std::string::npos) << message;
    EXPECT_NE(message.find("convert the model again"), std::string::npos) << message;
  }
  const Corruption of_sentencepiece[] = {
      {"no scores", "tokenizer.ggml.scores is missing", [](D& d) { d.scores.clear(); }},
      {"too few scores", "tokenizer.ggml.scores: expected one score for each of the ",
       [](D& d) { d.scores.pop_back(); }},
      {"too many scores", "tokenizer.ggml.scores: expected one score", [](D& d) { d.scores.push_back(0.0f); }},
      {"NaN score", "tokenizer.ggml.scores: expected finite numbers, found nan for token 7",
       [](D& d) { d.scores[7] = std::numeric_limits<float>::quiet_NaN(); }},
      {"endless piece", "expected texts of at most 65536 bytes",
       [](D& d) { d.tokens[300] = std::string(size_t{1} << 20, 'a'); }},
  };
  for (const auto& c : of_sentencepiece) {
    SCOPED_TRACE(c.name);
    GgufTokenizerData d = sentencepiece();
    c.apply(d);
    const std::string message = refused<FormatError>(d);
    EXPECT_NE(message.find(c.says), std::string::npos) << message;
    EXPECT_NE(message.find(" again"), std::string::npos) << message;  // convert it, or get it
  }
}

TEST(GgufTokenizer, AcceptsOldFilesWithoutTypes) {
  GgufTokenizerData d = sentencepiece();
  d.token_types.clear();
  d.bos.reset(), d.eos.reset(), d.unk.reset();
  const RebuiltTokenizer r = rebuild_gguf_tokenizer(d, "model.gguf");
  ASSERT_EQ(r.warnings.size(), 1u);
  EXPECT_NE(r.warnings[0].find("token_type"), std::string::npos);
  const Tokenizer t = rebuilt(d);
  EXPECT_EQ(t.bos_id(), 1);
  EXPECT_EQ(t.decode(t.encode("river \xF0\x9F\x98\x80", true), true), "river \xF0\x9F\x98\x80");
}

TEST(GgufTokenizer, WarnsWhereTheCutsAreNotNamed) {
  GgufTokenizerData d = bpe();
  const RebuiltTokenizer r = rebuild_gguf_tokenizer(d, "model.gguf");
  ASSERT_EQ(r.warnings.size(), 1u);
  EXPECT_NE(r.warnings[0].find("model.gguf: tokenizer.ggml.pre is missing: \"default\""), std::string::npos);
  d.pre = "qwen2";
  EXPECT_TRUE(rebuild_gguf_tokenizer(d, "model.gguf").warnings.empty());
}

TEST(GgufTokenizer, EveryIdThatTheFileNamesEnds) {
  GgufTokenizerData d = bpe();
  d.pre = "smollm";
  for (const int64_t id : {7, -1, 7, 2, 9}) d.ends.emplace_back("tokenizer.ggml.eog_token_ids", id);
  EXPECT_EQ(rebuilt(d).eos_ids(), (std::vector<int32_t>{2, 0, 7, 9}));
}

// A chain of pieces a, aa, aaa, ...: the bytes of its merges grow with the cube of its length.
TEST(GgufTokenizer, BoundsTheMergesOfAChain) {
  GgufTokenizerData d;
  d.model = "llama";
  d.tokens = {"<unk>", "<s>", "</s>"};
  for (size_t i = 1; i <= 1000; ++i) d.tokens.emplace_back(i, 'a');
  d.token_types.assign(d.tokens.size(), 1);
  d.token_types[0] = 2, d.token_types[1] = d.token_types[2] = 3;
  d.scores.assign(d.tokens.size(), -1.0F);
  EXPECT_NE(refused<FormatError>(d).find("25165824 bytes"), std::string::npos);
}

TEST(GgufTokenizer, EmptyTokensGetNames) {
  GgufTokenizerData d = bpe();
  d.pre = "smollm";
  for (int i = 0; i < 2; ++i) d.tokens.emplace_back(), d.token_types.push_back(5);
  EXPECT_EQ(rebuilt(d).vocab_size(), static_cast<int64_t>(d.tokens.size()));
}

}  // namespace
}  // namespace metal_marlin

// Tokenizers of folders as keys of GGUF files: what is refused, and what is named how. Whether the ids are the same is
// tested by checkpoint/gguf_output_test.cc on the tiny models.
#include "tokenizer/vocabulary/gguf_vocabulary.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <tuple>

#include "formats/support.h"
#include "tokenizer/tokenizer_json.h"
#include "tokenizer/vocabulary/gguf_pre_tokenizers.h"
#include "tokenizer/vocabulary/merge_scores.h"

namespace metal_marlin {
namespace {

using test::check_error;
using test::expect;
using Json = nlohmann::json;
using Merges = std::vector<std::pair<std::string, std::string>>;

// A byte-level BPE of the 256 bytes and one merge.
Json byte_level() {
  Json vocab = Json::object();
  int id = 0;
  // GPT-2's letters for bytes: the printable ones stand for themselves, the others for U+0100 and on.
  int extra = 0;
  for (int byte = 0; byte < 256; ++byte) {
    const bool plain = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    const int code = plain ? byte : 256 + extra++;
    std::string text;
    if (code < 0x80) {
      text += static_cast<char>(code);
    } else {
      text += static_cast<char>(0xC0 | (code >> 6));
      text += static_cast<char>(0x80 | (code & 0x3F));
    }
    vocab[text] = id++;
  }
  vocab["th"] = id++;
  return {
      {"version", "1.0"},
      {"added_tokens",
       {{{"id", 257},
         {"content", "<|end|>"},
         {"special", true},
         {"normalized", false},
         {"lstrip", false},
         {"rstrip", false},
         {"single_word", false}},
        {{"id", 258},
         {"content", "<tool>"},
         {"special", false},
         {"normalized", false},
         {"lstrip", false},
         {"rstrip", false},
         {"single_word", false}}}},
      {"normalizer", nullptr},
      {"pre_tokenizer",
       {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}}},
      {"post_processor", nullptr},
      {"decoder", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}}},
      {"model",
       {{"type", "BPE"},
        {"dropout", nullptr},
        {"unk_token", nullptr},
        {"continuing_subword_prefix", nullptr},
        {"end_of_word_suffix", nullptr},
        {"fuse_unk", false},
        {"byte_fallback", false},
        {"ignore_merges", false},
        {"vocab", vocab},
        {"merges", {"t h"}}}}};
}

GgufVocabulary made(const Json& json, const Json& config = {{"eos_token", "<|end|>"}}, int64_t rows = 262) {
  TokenizerFiles files;
  files.tokenizer_json = json.dump();
  files.tokenizer_config_json = config.dump();
  return gguf_vocabulary(files, Tokenizer::from_files(files, "dir", rows), rows, "dir");
}

TEST(GgufVocabulary, ByteLevel) {
  const GgufVocabulary v = made(byte_level());
  const GgufTokenizerData& d = v.data;
  EXPECT_TRUE(v.warnings.empty());
  EXPECT_EQ(d.model, "gpt2");
  EXPECT_EQ(d.pre, "gpt-2");
  ASSERT_EQ(d.tokens.size(), 262u);
  EXPECT_EQ(d.tokens[256], "th");
  EXPECT_EQ(d.tokens[261], "[PAD261]");
  EXPECT_EQ(d.token_types[256], static_cast<int32_t>(TokenType::kNormal));
  EXPECT_EQ(d.token_types[257], static_cast<int32_t>(TokenType::kControl));
  EXPECT_EQ(d.token_types[258], static_cast<int32_t>(TokenType::kUserDefined));
  EXPECT_EQ(d.token_types[261], static_cast<int32_t>(TokenType::kUnused));
  EXPECT_EQ(d.merges, (std::vector<std::string>{"t h"}));
  EXPECT_EQ(d.eos, 257);
  EXPECT_FALSE(d.bos);
  EXPECT_EQ(d.add_bos, false);
  EXPECT_EQ(d.add_eos, false);
}

// Each row of the table of cuts comes back by a name that means the same.
TEST(GgufVocabulary, EveryPreTokenizerIsFound) {
  std::vector<std::tuple<std::vector<std::string_view>, bool, bool>> found;  // rows that cut differently
  for (const std::string_view name : gguf_pre_tokenizer_names()) {
    const GgufPreTokenizer& row = gguf_pre_tokenizer(name, "t");
    const std::tuple what(row.patterns, row.nfc, row.ignore_merges);
    if (!row.byte_level || std::find(found.begin(), found.end(), what) != found.end()) continue;
    found.push_back(what);
    Json json = byte_level();
    Json steps = Json::array();
    for (const auto pattern : row.patterns)
      steps.push_back(
          {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}});
    steps.push_back(
        {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", false}, {"use_regex", false}});
    json["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", steps}};
    if (row.nfc) json["normalizer"] = {{"type", "NFC"}};
    json["model"]["ignore_merges"] = row.ignore_merges;
    const GgufPreTokenizer& again = gguf_pre_tokenizer(made(json).data.pre, "t");
    EXPECT_EQ(std::tuple(again.patterns, again.nfc, again.ignore_merges), what) << name;
  }
  EXPECT_GT(found.size(), 20u);
}

TEST(GgufVocabulary, DigitsAreASplit) {
  Json json = byte_level();
  const Json cut = json["pre_tokenizer"];
  const Json digits = {{"type", "Digits"}, {"individual_digits", true}};
  json["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", Json::array({digits, cut})}};
  EXPECT_EQ(made(json).data.pre, "smollm");
}

TEST(GgufVocabulary, RefusesWhatGgufHasNoPlaceFor) {
  const auto refused = [](const std::vector<std::string>& texts, const std::function<void(Json&)>& change) {
    Json json = byte_level();
    change(json);
    check_error(expect<UnsupportedError>(texts), [&] { made(json); });
  };
  refused({"dir/tokenizer.json", "pre_tokenizer", "add_prefix_space", "cannot be written to GGUF"},
          [](Json& j) { j["pre_tokenizer"]["add_prefix_space"] = true; });
  refused({"pre_tokenizer", "tokenizer.ggml.pre", "[a-z]"}, [](Json& j) {
    const Json letters = {
        {"type", "Split"}, {"pattern", {{"Regex", "[a-z]+"}}}, {"behavior", "Isolated"}, {"invert", false}};
    j["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", Json::array({letters, j["pre_tokenizer"]})}};
  });
  refused({"normalizer", "NFC", "Lowercase"}, [](Json& j) { j["normalizer"] = {{"type", "Lowercase"}}; });
  refused({"pre_tokenizer", "Whitespace"}, [](Json& j) { j["pre_tokenizer"] = {{"type", "Whitespace"}}; });
  refused({"the model", "BPE", "Unigram"}, [](Json& j) {
    j["model"] = Json::parse(R"({"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0]]})");
    j["added_tokens"] = Json::array();
  });
  refused({"continuing_subword_prefix", "##"}, [](Json& j) {
    j["model"]["continuing_subword_prefix"] = "##";
    j["model"]["vocab"]["##h"] = 259;
    j["model"]["merges"] = {"t ##h"};
  });
  refused({"post_processor", "BOS and EOS"}, [](Json& j) {
    j["post_processor"] = Json::parse(R"({"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "<tool>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
      "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
      "special_tokens": {"<tool>": {"id": "<tool>", "ids": [258], "tokens": ["<tool>"]}}})");
  });
}

TEST(GgufVocabulary, StrippedWhiteSpaceIsSaid) {
  Json json = byte_level();
  json["added_tokens"][1]["lstrip"] = true;
  const GgufVocabulary v = made(json);
  ASSERT_EQ(v.warnings.size(), 1u);
  EXPECT_NE(v.warnings[0].find("lstrip"), std::string::npos);
}

TEST(MergeScores, FollowTheOrderOfTheMerges) {
  const std::vector<std::string> tokens = {"<unk>", "a", "b", "ab", "abb", "bb", "[PAD6]", "<x>"};
  const std::vector<int32_t> types = {2, 1, 1, 1, 1, 1, 5, 4};
  // abb can be made in two ways.
  const Merges merges = {{"b", "b"}, {"a", "b"}, {"ab", "b"}, {"a", "bb"}};
  EXPECT_EQ(merge_scores(tokens, types, merges, "f"), (std::vector<float>{0, -4, -4, -2, -3, -1, -10000, -1000}));
  // Of pieces with one score, merges stand mixed.
  const Merges mixed = {{"b", "b"}, {"ab", "b"}, {"a", "b"}, {"a", "bb"}};
  EXPECT_EQ(merge_scores(tokens, types, mixed, "f"), (std::vector<float>{0, -3, -3, -2, -2, -1, -10000, -1000}));
}

TEST(MergeScores, AWayToMakeATokenIsMissing) {
  const std::vector<std::string> tokens = {"a", "b", "ab", "abb", "bb"};
  const Merges merges = {{"b", "b"}, {"a", "b"}, {"ab", "b"}};
  check_error(expect<UnsupportedError>({"f: merges", "\"abb\"", "1 merge of 2", "SentencePiece"}),
              [&] { merge_scores(tokens, std::vector<int32_t>(5, 1), merges, "f"); });
}

TEST(MergeScores, LongTokensAreRefused) {
  std::vector<std::string> tokens;
  for (char c = 'a'; c < 'k'; ++c) tokens.emplace_back(20000, c);
  check_error(expect<FormatError>({"f: vocab", "20000 bytes"}),
              [&] { merge_scores(tokens, std::vector<int32_t>(10, 1), {}, "f"); });
}

}  // namespace
}  // namespace metal_marlin

#include "tokenizer/text_stream.h"
#include "core/files/text_reader.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/files/text_file.h"
#include "tokenizer/token_set.h"
#include "tokenizer/vocabulary/gguf_tokenizer.h"
#include "tokenizer/vocabulary/sentencepiece_model.h"

namespace metal_marlin {
namespace {

using Json = nlohmann::json;

Json golden(const std::string& name) {
  std::ifstream in(std::string(TEST_DATA) + "/tokenizer/" + name);
  return Json::parse(in);
}

Tokenizer made_from(const RebuiltTokenizer& r) {
  TokenizerFiles files;
  files.tokenizer_json = r.tokenizer_json;
  files.tokenizer_config_json = r.tokenizer_config_json;
  return Tokenizer::from_files(files, "model");
}

RebuiltTokenizer byte_level(const std::string& pre) {
  const Json j = golden("bpe.json");
  GgufTokenizerData d;
  d.model = "gpt2";
  d.pre = pre;
  d.tokens = j["tokens"].get<std::vector<std::string>>();
  d.token_types = j["token_types"].get<std::vector<int32_t>>();
  d.merges = j["merges"].get<std::vector<std::string>>();
  d.bos = 1, d.eos = 2, d.unk = 0;
  return rebuild_gguf_tokenizer(d, "golden");
}

RebuiltTokenizer sentencepiece() {
  const Json j = golden("sentencepiece.json")["cases"]["bpe"]["gguf"];
  GgufTokenizerData d;
  d.model = "llama";
  d.tokens = j["tokens"].get<std::vector<std::string>>();
  d.token_types = j["token_types"].get<std::vector<int32_t>>();
  d.scores = j["scores"].get<std::vector<float>>();
  d.bos = 1, d.eos = 2, d.unk = 0;
  return rebuild_gguf_tokenizer(d, "golden");
}

class TextStream : public ::testing::Test {
 protected:
  void SetUp() override {
    path_ = (std::filesystem::path(::testing::TempDir()) /
             ("stream_" + std::to_string(getpid()) +
              std::string(::testing::UnitTest::GetInstance()->current_test_info()->name())))
                .string();
  }
  void TearDown() override { std::filesystem::remove(path_); }
  void put(const std::string& text) const { std::ofstream(path_, std::ios::binary) << text; }
  std::string path_;
};

// Lines of all kinds: of letters, digits, punctuation, with spaces at either end, empty ones, of other scripts.
std::string prose(size_t bytes) {
  const char* lines[] = {"The river ran past the old mill.",
                         "  indented: 12345 67, 'tis it's",
                         "",
                         "trailing spaces   ",
                         "if (x < 10) { return y; }",
                         "\xE6\xB2\xB3\xE5\xB7\x9D \xF0\x9F\x98\x80 na\xC3\xAFve",
                         "ends in a digit 7",
                         "\t\ttabs",
                         "a",
                         "...",
                         "Zebra<|im_end|>"};
  std::string text;
  for (size_t i = 0; text.size() < bytes; i = i * 7 + 3) {
    text += lines[i % std::size(lines)];
    text += i % 5 == 0 ? "\r\n" : i % 11 == 0 ? "\n\n" : "\n";
  }
  return text;
}

TEST_F(TextStream, PartsGiveTheIdsOfTheWhole) {
  put(prose(size_t{1100} << 10));
  std::vector<Tokenizer> tokenizers;
  for (const char* pre : {"gpt-2", "llama-bpe", "smollm", "gpt-4o"}) tokenizers.push_back(made_from(byte_level(pre)));
  tokenizers.push_back(made_from(sentencepiece()));
  for (const Tokenizer& t : tokenizers) {
    SCOPED_TRACE(&t - tokenizers.data());
    EXPECT_NE(t.line_cut(), Tokenizer::LineCut::kNowhere);
    const auto whole = tokenize_file(path_, t);
    TokenStream stream(path_, t);
    std::vector<int32_t> ids;
    int parts = 0;
    while (stream.next(ids, 1'000'000'000)) ++parts;
    EXPECT_GT(parts, 1);
    ASSERT_EQ(ids.size(), whole.size());
    EXPECT_TRUE(ids == whole);

    EXPECT_EQ(first_tokens(path_, t, 1000), std::vector<int32_t>(whole.begin(), whole.begin() + 1000));
    const TextEnds ends = text_ends(path_, t, 100, 50);
    EXPECT_EQ(ends.total, static_cast<int64_t>(whole.size()));
    std::vector<int32_t> both(whole.begin(), whole.begin() + 100);
    both.insert(both.end(), whole.end() - 50, whole.end());
    EXPECT_EQ(ends.ids, both);
  }
}

TEST_F(TextStream, UnknownPatternsAreNotCut) {
  put("one\ntwo\nthree\n");
  Json json = Json::parse(byte_level("gpt-2").tokenizer_json);
  json["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(?=[^#]*#)a|.";
  const Tokenizer t = Tokenizer::from_json(json.dump(), "tokenizer.json");
  EXPECT_EQ(t.line_cut(), Tokenizer::LineCut::kNowhere);
  EXPECT_EQ(first_tokens(path_, t, 100), tokenize_file(path_, t));
  json = Json::parse(byte_level("gpt-2").tokenizer_json);
  json["added_tokens"][0]["content"] = "a\nb";
  EXPECT_EQ(Tokenizer::from_json(json.dump(), "tokenizer.json").line_cut(), Tokenizer::LineCut::kNowhere);
}

TEST_F(TextStream, OfALongLineTheBeginningIsRead) {
  const Tokenizer t = made_from(byte_level("gpt-2"));
  put(std::string(size_t{3} << 20, 'a'));
  const auto whole = tokenize_file(path_, t);
  EXPECT_EQ(first_tokens(path_, t, 64), std::vector<int32_t>(whole.begin(), whole.begin() + 64));
  put(std::string(size_t{40} << 20, 'a'));
  EXPECT_EQ(first_tokens(path_, t, 64).size(), 64u);
}

// A line of words that is too long for the memory given: both ends are those of the whole.
TEST_F(TextStream, OfALineTooLongForTheMemoryBothEndsAreRead) {
  std::string line;
  for (uint64_t i = 1; line.size() < size_t{3} << 20; ++i)
    line += "word" + std::to_string(i * i % 977) + (i % 7 == 0 ? ", " : " ");
  put(line);
  for (const Tokenizer& t : {made_from(byte_level("gpt-2")), made_from(sentencepiece())}) {
    const auto whole = tokenize_file(path_, t);
    const TextEnds counted = text_ends(path_, t, 1000, 500);
    EXPECT_TRUE(counted.counted);
    EXPECT_EQ(counted.total, static_cast<int64_t>(whole.size()));
    const TextEnds ends = text_ends(path_, t, 1000, 500, 1);
    EXPECT_FALSE(ends.counted);
    EXPECT_EQ(ends.total, 1500);
    EXPECT_TRUE(ends.ids == counted.ids);
    // Too many ids are wanted for the two ends not to meet.
    EXPECT_THROW(text_ends(path_, t, 100'000, 500, 1), UnsupportedError);
  }
}

TEST_F(TextStream, OfALargeTextBothEndsAreReadAlone) {
  const Tokenizer t = made_from(byte_level("gpt-2"));
  const std::string part = prose(size_t{200} << 10) + "the end.\n";
  put(part + "one.\ntwo\n");
  std::filesystem::resize_file(path_, uint64_t{8} << 30);  // nobody has the time to read it
  std::ofstream(path_, std::ios::binary | std::ios::app) << ".\nthree\n" << part;
  const TextEnds ends = text_ends(path_, t, 1000, 500);
  EXPECT_FALSE(ends.counted);
  const auto of_part = t.encode(with_plain_newlines(part), false);
  std::vector<int32_t> want(of_part.begin(), of_part.begin() + 1000);
  want.insert(want.end(), of_part.end() - 500, of_part.end());
  EXPECT_TRUE(ends.ids == want);
}

// Opening a pipe would wait for its writer; and a text is read more than once.
TEST_F(TextStream, RefusesAPipeAtOnce) {
  std::filesystem::remove(path_);
  ASSERT_EQ(mkfifo(path_.c_str(), 0600), 0);
  try {
    TextReader reader(path_);
    ADD_FAILURE() << "accepted";
  } catch (const SystemError& e) {
    EXPECT_EQ(std::string(e.what()), path_ + ": expected a text file, found a pipe or a device");
  }
}

TEST_F(TextStream, LeavesOutTheByteOrderMark) {
  const auto read = [&](const std::string& bytes) {
    const std::string path = ::testing::TempDir() + "/marked_" + std::to_string(getpid());
    std::ofstream(path, std::ios::binary) << bytes;
    TextReader reader(path);
    std::string text;
    while (reader.read(text)) {
    }
    std::filesystem::remove(path);
    return text;
  };
  EXPECT_EQ(read("\xEF\xBB\xBFone\r\ntwo"), "one\ntwo");
  EXPECT_EQ(read(std::string(1 << 20, 'a') + "\xEF\xBB\xBF"), std::string(1 << 20, 'a') + "\xEF\xBB\xBF");
  EXPECT_THROW(read("\xEF\xBB\xBF"), FormatError);
}

TEST_F(TextStream, RefusesWhatIsNoTextAndNamesThePlace) {
  const Tokenizer t = made_from(byte_level("gpt-2"));
  EXPECT_THROW(first_tokens(path_, t, 1), SystemError);
  EXPECT_THROW(first_tokens(::testing::TempDir(), t, 1), SystemError);
  put("");
  EXPECT_THROW(first_tokens(path_, t, 1), FormatError);
  std::string text(size_t{3} << 20, 'b');
  for (size_t i = 99; i < text.size(); i += 100) text[i] = '\n';
  text[(size_t{2} << 20) + 5] = '\xFF';
  put(text);
  try {
    text_ends(path_, t, 1, 1);
    ADD_FAILURE() << "accepted";
  } catch (const FormatError& e) {
    EXPECT_NE(std::string(e.what()).find("offset 2097157"), std::string::npos) << e.what();
  }
  EXPECT_EQ(first_tokens(path_, t, 10).size(), 10u);  // what is not needed is not read
}

}  // namespace
}  // namespace metal_marlin

#include "tokenizer/token_set.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <numeric>

#include "core/files/text_file.h"
#include "tokenizer/tokenizer.h"

namespace metal_marlin {
namespace {

std::vector<int32_t> iota(int n) {
  std::vector<int32_t> ids(static_cast<size_t>(n));
  std::iota(ids.begin(), ids.end(), 0);
  return ids;
}

TEST(CutChunks, AreConsecutiveAndWhole) {
  const TokenSet set = cut_chunks(iota(25), 0, 25, 10, 99, -1);
  ASSERT_EQ(set.sequences.size(), 2u);
  EXPECT_EQ(set.sequences[1].front(), 10);
  EXPECT_EQ(set.sequences[1].back(), 19);
  EXPECT_EQ(set.tokens(), 20);
  EXPECT_EQ(cut_chunks(iota(25), 0, 25, 10, 1, -1).sequences.size(), 1u);
  EXPECT_TRUE(cut_chunks(iota(9), 0, 9, 10, 1, -1).sequences.empty());
}

TEST(CutChunks, ABosTakesOnePlaceOfEach) {
  const TokenSet set = cut_chunks(iota(25), 0, 25, 10, 99, 77);
  ASSERT_EQ(set.sequences.size(), 2u);
  for (const auto& s : set.sequences) {
    EXPECT_EQ(s.size(), 10u);
    EXPECT_EQ(s.front(), 77);
  }
  EXPECT_EQ(set.sequences[1][1], 9);
}

TEST(SplitTokens, HeldBackTextIsNeverUsedForStatistics) {
  const auto ids = iota(40000);
  const CalibrationSplit split = split_tokens(ids, 64, 512, 1024, -1, held_back_beside(64 * 512), "text");
  EXPECT_EQ(split.calibration.sequences.size(), 64u);
  EXPECT_EQ(split.held_back.tokens(), 4096);
  int32_t last = 0;
  for (const auto& s : split.calibration.sequences) last = std::max(last, s.back());
  EXPECT_LT(last, split.held_back.sequences.front().front());
  EXPECT_EQ(split.held_back.sequences.back().back(), 39999);
}

TEST(SplitTokens, AShortTextGivesWhatItHas) {
  const CalibrationSplit split = split_tokens(iota(6000), 64, 512, 1024, -1, held_back_beside(6000), "text");
  EXPECT_EQ(split.held_back.tokens(), 4096);
  EXPECT_EQ(split.calibration.sequences.size(), 3u);
  EXPECT_THROW(split_tokens(iota(4200), 64, 512, 1024, -1, held_back_beside(4200), "text"), FormatError);
  EXPECT_EQ(split_tokens(iota(4200), 64, 512, 1024, -1, 0, "text").calibration.sequences.size(), 8u);
}

TEST(SplitTokens, ATenthOfALongText) {
  const CalibrationSplit split = split_tokens(iota(300000), 256, 1024, 1000, -1, held_back_beside(256 * 1024), "text");
  EXPECT_GE(split.held_back.tokens(), 26214);
  EXPECT_LT(split.held_back.tokens(), 28000);
}

TEST(SameText, IsThatOfTheSameBytesWhereverTheyLie) {
  const std::filesystem::path folder =
      std::filesystem::temp_directory_path() / ("mm_same_text_" + std::to_string(getpid()));
  std::filesystem::create_directories(folder);
  const auto write = [&](const char* name, const std::string& text) {
    std::ofstream(folder / name, std::ios::binary) << text;
    return (folder / name).string();
  };
  const std::string a = write("a", "a text");
  EXPECT_TRUE(same_text(a, a));
  EXPECT_TRUE(same_text(a, write("b", "a text")));
  EXPECT_FALSE(same_text(a, write("c", "a tex!")));
  EXPECT_FALSE(same_text(a, write("d", "a text and more")));
  EXPECT_FALSE(same_text(a, "self"));
  EXPECT_FALSE(same_text("", ""));
  EXPECT_FALSE(same_text(folder.string(), folder.string()));
  std::filesystem::remove_all(folder);
}

TEST(ReadUtf8Text, LeavesOutTheByteOrderMark) {
  const std::string path = ::testing::TempDir() + "/mark_" + std::to_string(getpid());
  const auto read = [&](const std::string& text) {
    std::ofstream(path, std::ios::binary) << text;
    return read_utf8_text(path);
  };
  EXPECT_EQ(read("\xEF\xBB\xBFone\r\ntwo"), "one\ntwo");
  EXPECT_EQ(read("one\xEF\xBB\xBF"), "one\xEF\xBB\xBF");  // elsewhere it is a character
  EXPECT_THROW(read("\xEF\xBB\xBF"), FormatError);
  std::filesystem::remove(path);
}

TEST(TokenizeFile, RefusesWhatIsNoText) {
  const auto tokenizer = Tokenizer::from_folder(std::string(TEST_DATA) + "/models/llama");
  const std::string path =
      (std::filesystem::temp_directory_path() / ("text_test_" + std::to_string(getpid()))).string();
  const auto write = [&](const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; };
  EXPECT_THROW(tokenize_file(path, tokenizer), SystemError);  // not there
  write("");
  EXPECT_THROW(tokenize_file(path, tokenizer), FormatError);
  for (const std::string bad : {"abc\xff", "\xc0\x80", "\xed\xa0\x80", "x\xe2\x82", "\xf5\x80\x80\x80", "\x80"}) {
    write(bad);
    EXPECT_THROW(tokenize_file(path, tokenizer), FormatError) << bad;
  }
  write("a text");
  EXPECT_FALSE(tokenize_file(path, tokenizer).empty());
  write("a\r\ntext\rof lines\n");
  const auto mixed = tokenize_file(path, tokenizer);
  write("a\ntext\nof lines\n");
  EXPECT_EQ(tokenize_file(path, tokenizer), mixed);
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace metal_marlin

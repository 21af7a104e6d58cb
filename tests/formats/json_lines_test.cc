#include "formats/json/json_lines.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <vector>

namespace metal_marlin {
namespace {

class JsonLinesTest : public testing::Test {
 protected:
  std::string path_ = testing::TempDir() + "json_lines_" + std::to_string(getpid()) + ".jsonl";
  void TearDown() override { std::filesystem::remove(path_); }
  std::vector<std::string> lines(const std::string& bytes) {
    std::ofstream(path_, std::ios::binary) << bytes;
    std::vector<std::string> out;
    JsonLines file(path_);
    std::string_view line;
    while (file.next(line)) {
      out.emplace_back(line);
      EXPECT_EQ(file.number(), std::ssize(out));
    }
    return out;
  }
};

using Lines = std::vector<std::string>;

TEST_F(JsonLinesTest, GivesEachLineWithoutItsEnd) {
  EXPECT_EQ(lines("a\nb\n"), (Lines{"a", "b"}));
  EXPECT_EQ(lines("a\r\n\r\nb"), (Lines{"a", "", "b"}));
  EXPECT_EQ(lines("\xef\xbb\xbf{}\n"), (Lines{"{}"}));
  EXPECT_EQ(lines("\n"), (Lines{""}));
}

// The reader takes the file in parts of 1 MiB.
TEST_F(JsonLinesTest, LinesOfAnyLengthUpToTheLimit) {
  Lines expected;
  std::string bytes;
  for (const size_t size : {size_t{1}, size_t{1} << 20, (size_t{1} << 20) - 1, size_t{3} << 20, kLongestJsonLine}) {
    expected.emplace_back(size, 'x');
    bytes += expected.back() + "\n";
  }
  EXPECT_TRUE(lines(bytes) == expected);
  try {
    lines("{}\n" + std::string(kLongestJsonLine + 1, 'x'));
    ADD_FAILURE() << "a line that is too long was read";
  } catch (const FormatError& error) {
    EXPECT_EQ(std::string(error.what()), path_ + ":2: expected a line of at most 32 MiB, found a longer one");
  }
}

TEST_F(JsonLinesTest, RefusesWhatIsNoText) {
  EXPECT_THROW(lines(""), FormatError);
  EXPECT_THROW(lines("{}\n\xff\n"), FormatError);
  EXPECT_THROW(JsonLines{testing::TempDir()}, SystemError);
}

}  // namespace
}  // namespace metal_marlin

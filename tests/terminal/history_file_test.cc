// The file of earlier messages: what it holds, who may read it, and what it does not follow.
#include "terminal/history_file.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;
using Texts = std::vector<std::string>;

class HistoryFileTest : public testing::Test {
 protected:
  HistoryFileTest() {
    std::string name = (fs::temp_directory_path() / "mm_history_XXXXXX").string();
    EXPECT_NE(mkdtemp(name.data()), nullptr);
    place_ = name;
    folder_ = place_ / "state" / "metal-marlin";
    file_ = folder_ / "history";
  }
  ~HistoryFileTest() override { fs::remove_all(place_); }
  HistoryFile history() const { return HistoryFile(folder_.string()); }
  void write(const std::string& content) const {
    fs::create_directories(folder_);
    std::ofstream(file_, std::ios::binary) << content;
  }
  std::string read() const {
    std::ifstream stream(file_, std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), {}};
  }
  static unsigned mode(const fs::path& path) {
    struct stat info {};
    EXPECT_EQ(lstat(path.c_str(), &info), 0);
    return info.st_mode & 07777U;
  }

  fs::path place_;
  fs::path folder_;
  fs::path file_;
};

TEST_F(HistoryFileTest, TextsComeBackInTheirOrder) {
  EXPECT_EQ(history().load(), Texts{});
  EXPECT_FALSE(fs::exists(folder_));  // looking makes nothing
  const Texts texts = {"one", "two\nlines", "a\\b \\n c\\", "日本語 👍"};
  for (const std::string& text : texts) history().add(text);
  EXPECT_EQ(history().load(), texts);
  EXPECT_EQ(read(), "one\ntwo\\nlines\na\\\\b \\\\n c\\\\\n日本語 👍\n");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), {}), 1);
}

TEST_F(HistoryFileTest, OnlyItsUserReadsIt) {
  const mode_t before = umask(0);
  history().add("secret");
  umask(before);
  EXPECT_EQ(mode(file_), 0600U);
  EXPECT_EQ(mode(folder_), 0700U);
  fs::permissions(file_, fs::perms(0644));
  history().add("more");
  EXPECT_EQ(mode(file_), 0600U);
}

TEST_F(HistoryFileTest, TheLastThousandStay) {
  std::string content;
  for (int i = 0; i < 1500; ++i) content += "line " + std::to_string(i) + "\n";
  write(content);
  ASSERT_EQ(history().load().size(), 1000U);
  EXPECT_EQ(history().load().front(), "line 500");
  history().add("new");
  const Texts texts = history().load();
  EXPECT_EQ(texts.size(), 1000U);
  EXPECT_EQ(texts.front(), "line 501");
  EXPECT_EQ(texts.back(), "new");
  EXPECT_EQ(read().find("line 500\n"), std::string::npos);
}

TEST_F(HistoryFileTest, LargeFilesAreReadFromTheirEndAndCut) {
  write(std::string(3 << 20, 'x') + "\nlast\n");
  EXPECT_EQ(history().load(), Texts{"last"});
  for (int i = 0; i < 40; ++i) history().add(std::string(60000, static_cast<char>('a' + i % 26)));
  EXPECT_LE(fs::file_size(file_), HistoryFile::kMostBytes);
  EXPECT_EQ(history().load().size(), HistoryFile::kMostBytes / 60001);
  history().add(std::string(1 << 17, 'y'));  // too long to be kept
  EXPECT_EQ(history().load().back()[0], 'a' + 39 % 26);
}

TEST_F(HistoryFileTest, WhatSteersATerminalIsLeftOut) {
  write("good\n\x1b[31mred\nbad \xff byte\nC1 \xc2\x9b\n\ntoo\\nlines\n\xe2\x80\xaeturned\nno newline");
  EXPECT_EQ(history().load(), (Texts{"good", "too\nlines", "no newline"}));
  const std::string before = read();
  history().add("\x1b]0;title\x07");
  EXPECT_EQ(read(), before);
}

TEST_F(HistoryFileTest, TheSameTextIsAddedOnce) {
  for (const char* text : {"a", "a", "b", "a"}) history().add(text);
  EXPECT_EQ(history().load(), (Texts{"a", "b", "a"}));
}

TEST_F(HistoryFileTest, NoLinkIsFollowed) {
  const fs::path target = place_ / "target";
  std::ofstream(target) << "untouched\n";
  fs::create_directories(folder_);
  fs::create_symlink(target, file_);
  EXPECT_THROW(history().load(), SystemError);
  EXPECT_THROW(history().add("text"), SystemError);
  fs::remove(file_);
  fs::remove(folder_);
  fs::create_directory(place_ / "elsewhere");
  fs::create_directory_symlink(place_ / "elsewhere", folder_);
  EXPECT_THROW(history().load(), SystemError);
  EXPECT_THROW(history().add("text"), SystemError);
  EXPECT_TRUE(fs::is_empty(place_ / "elsewhere"));
  std::ifstream stream(target);
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(stream), {}), "untouched\n");
}

TEST_F(HistoryFileTest, APipeIsRefusedAtOnce) {
  fs::create_directories(folder_);
  ASSERT_EQ(mkfifo(file_.c_str(), 0600), 0);
  EXPECT_THROW(history().load(), SystemError);
}

TEST_F(HistoryFileTest, TheFolderFollowsTheEnvironment) {
  const auto with = [](const char* state, const char* home) {
    const auto set = [](const char* name, const char* value) {
      value == nullptr ? unsetenv(name) : setenv(name, value, 1);
    };
    const char* const names[] = {"XDG_STATE_HOME", "HOME"};
    std::vector<std::pair<bool, std::string>> before;
    for (const char* name : names) {
      const char* value = std::getenv(name);
      before.emplace_back(value != nullptr, value == nullptr ? "" : value);
    }
    set(names[0], state);
    set(names[1], home);
    const std::string folder = HistoryFile::default_folder();
    for (size_t i = 0; i < 2; ++i) set(names[i], before[i].first ? before[i].second.c_str() : nullptr);
    return folder;
  };
  EXPECT_EQ(with("/s", "/h"), "/s/metal-marlin");
  EXPECT_EQ(with(nullptr, "/h"), "/h/.local/state/metal-marlin");
  EXPECT_EQ(with("relative", "/h"), "/h/.local/state/metal-marlin");
  EXPECT_EQ(with("", nullptr), "");
}

}  // namespace
}  // namespace metal_marlin

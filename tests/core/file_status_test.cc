#include "core/files/file_status.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include <unistd.h>
#include <filesystem>
#include <fstream>
#include <functional>

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;

class FileStatus : public testing::Test {
 protected:
  FileStatus() : folder_(fs::temp_directory_path() / ("mm_file_status_" + std::to_string(getpid()))) {
    fs::create_directories(folder_ / "empty");
    std::ofstream(folder_ / "file") << "12345";
    fs::create_symlink("loop", folder_ / "loop");
  }
  ~FileStatus() override { fs::remove_all(folder_); }

  fs::path folder_;
};

TEST_F(FileStatus, Answers) {
  EXPECT_TRUE(path_exists(folder_ / "file"));
  EXPECT_FALSE(path_exists(folder_ / "nothing"));
  EXPECT_FALSE(path_exists(folder_ / "file" / "below"));
  EXPECT_TRUE(is_folder(folder_));
  EXPECT_FALSE(is_folder(folder_ / "nothing"));
  EXPECT_TRUE(is_file(folder_ / "file"));
  EXPECT_FALSE(is_file(folder_));
  EXPECT_TRUE(is_empty_folder(folder_ / "empty"));
  EXPECT_FALSE(is_empty_folder(folder_));
  EXPECT_EQ(file_bytes(folder_ / "file"), 5U);
  EXPECT_EQ(entries_of(folder_), (std::vector<fs::path>{folder_ / "empty", folder_ / "file", folder_ / "loop"}));
  EXPECT_TRUE(absolute_path("x").is_absolute());
}

// A name that is too long, and a link to itself: the system does not know, so neither "yes" nor "no" is right.
TEST_F(FileStatus, WhatCannotBeToldIsAnErrorWithThePath) {
  const fs::path too_long = folder_ / std::string(5000, 'a');
  for (const fs::path& path : {too_long, folder_ / "loop"}) {
    for (const std::function<void()>& ask : std::initializer_list<std::function<void()>>{
             [&] { path_exists(path); }, [&] { is_folder(path); }, [&] { is_file(path); },
             [&] { is_empty_folder(path); }, [&] { file_bytes(path); }, [&] { entries_of(path); }}) {
      try {
        ask();
        ADD_FAILURE() << path;
      } catch (const SystemError& e) {
        EXPECT_EQ(std::string(e.what()).find(path.string() + ": cannot "), 0U) << e.what();
        EXPECT_EQ(std::string(e.what()).find("filesystem error"), std::string::npos);
      }
    }
  }
  EXPECT_THROW(entries_of(folder_ / "file"), SystemError);
  EXPECT_THROW(file_bytes(folder_ / "nothing"), SystemError);
}

}  // namespace
}  // namespace metal_marlin

// AtomicFile and MappedFile.
#include <gtest/gtest.h>
#include <metal_marlin/error.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "core/atomic_file.h"
#include "core/mapped_file.h"

namespace metal_marlin {
namespace {

class Files : public testing::Test {
 protected:
  Files() {
    std::string name = (std::filesystem::temp_directory_path() / "mm_files_XXXXXX").string();
    EXPECT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
  }
  ~Files() override { std::filesystem::remove_all(folder_); }
  std::string path(const std::string& name) const { return folder_ + "/" + name; }
  template <typename F>
  static std::string message(F action) {
    try {
      action();
    } catch (const SystemError& error) {
      return error.what();
    }
    return "no error";
  }

  std::string folder_;
};

TEST_F(Files, NothingAppearsBeforeCommit) {
  AtomicFile file(path("x"));
  file.write("hello ");
  file.write("world");
  EXPECT_EQ(file.position(), 11u);
  EXPECT_FALSE(std::filesystem::exists(path("x")));
  file.commit();
  EXPECT_EQ(read_text_file(path("x")), "hello world");
  EXPECT_FALSE(std::filesystem::exists(path("x.tmp")));
}

TEST_F(Files, WithoutCommitTheOldFileStays) {
  write_text_file(path("x"), "old");
  {
    AtomicFile file(path("x"));
    file.write("new");
  }
  EXPECT_EQ(read_text_file(path("x")), "old");
  EXPECT_FALSE(std::filesystem::exists(path("x.tmp")));
  write_text_file(path("x"), "");
  EXPECT_EQ(read_text_file(path("x")), "");
}

TEST_F(Files, ErrorsNameThePath) {
  EXPECT_NE(message([&] { AtomicFile file(path("none/x")); }).find(path("none/x")), std::string::npos);
  EXPECT_NE(message([&] { read_text_file(path("none")); }).find("No such file"), std::string::npos);
  EXPECT_NE(message([&] { read_text_file(folder_); }).find("regular file"), std::string::npos);
  write_text_file(path("x"), "12345");
  EXPECT_NE(message([&] { read_text_file(path("x"), 4); }).find("5 bytes"), std::string::npos);
  EXPECT_NE(message([&] { create_folders(path("x")); }).find(path("x")), std::string::npos);
  create_folders(path("a/b/c"));
  create_folders(path("a/b/c"));
  EXPECT_TRUE(std::filesystem::is_directory(path("a/b/c")));
}

// A file that may not grow stands for a full disk.
TEST_F(Files, AFailedWriteLeavesTheOldFile) {
  write_text_file(path("x"), "old");
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{100, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const std::string text = message([&] { write_text_file(path("x"), std::string(1000, 'n')); });
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_NE(text.find("cannot write"), std::string::npos) << text;
  EXPECT_EQ(read_text_file(path("x")), "old");
  EXPECT_FALSE(std::filesystem::exists(path("x.tmp")));
}

TEST_F(Files, MapsAndReleases) {
  std::string content(100000, '\0');
  for (size_t i = 0; i < content.size(); ++i) content[i] = static_cast<char>(i * 31 % 251);
  write_text_file(path("x"), content);
  MappedFile file(path("x"));
  EXPECT_EQ(file.path(), path("x"));
  ASSERT_EQ(file.bytes().size(), content.size());
  EXPECT_EQ(std::memcmp(file.bytes().data(), content.data(), content.size()), 0);
  file.release(file.bytes());
  file.release(file.bytes().subspan(5, 3));
  file.release({});
  EXPECT_EQ(std::memcmp(file.bytes().data(), content.data(), content.size()), 0);
  const MappedFile moved = std::move(file);
  EXPECT_EQ(moved.bytes()[99999], static_cast<std::byte>(content[99999]));
  EXPECT_TRUE(file.bytes().empty());
}

TEST_F(Files, MapsAnEmptyFile) {
  write_text_file(path("x"), "");
  EXPECT_TRUE(MappedFile(path("x")).bytes().empty());
}

TEST_F(Files, MapRefusesWhatIsNoFile) {
  EXPECT_NE(message([&] { MappedFile file(path("none")); }).find(path("none")), std::string::npos);
  EXPECT_NE(message([&] { MappedFile file(folder_); }).find("regular file"), std::string::npos);
}

}  // namespace
}  // namespace metal_marlin

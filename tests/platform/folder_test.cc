// Open folders: nothing inside them is reached through a link, whoever puts one there.
#include "platform/folder.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <metal_marlin/error.h>
#include <sys/stat.h>

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <functional>
#include <string>
#include <vector>

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;

class FolderTest : public testing::Test {
 protected:
  FolderTest() {
    std::string name = (fs::temp_directory_path() / "mm_folder_XXXXXX").string();
    EXPECT_NE(mkdtemp(name.data()), nullptr);
    place_ = name;
  }
  ~FolderTest() override { fs::remove_all(place_); }
  void write(const std::string& name) const { std::ofstream(place_ / name) << name; }
  static std::string message(const std::function<void()>& action) {
    try {
      action();
    } catch (const SystemError& e) {
      return e.what();
    }
    return "no error";
  }

  fs::path place_;
};

TEST_F(FolderTest, LinksAreSeenAndNotFollowed) {
  fs::create_directories(place_ / "victim");
  write("victim/thesis");
  fs::create_directory_symlink(place_ / "victim", place_ / "link");
  fs::create_symlink(place_ / "victim/thesis", place_ / "file");
  const Folder folder(place_.string());
  EXPECT_EQ(folder.status("link").kind, FileKind::kLink);
  EXPECT_EQ(folder.status("file").kind, FileKind::kLink);
  EXPECT_EQ(folder.status("none").kind, FileKind::kNone);
  EXPECT_NE(message([&] { folder.open_folder("link"); }).find("symbolic link"), std::string::npos);
  EXPECT_NE(message([&] { folder.open_file("file"); }).find("symbolic link"), std::string::npos);
  EXPECT_NE(message([&] { folder.create_file("file"); }).find("cannot create"), std::string::npos);
  EXPECT_NE(message([&] { folder.make_folder("link"); }).find("cannot create"), std::string::npos);
  folder.remove_tree("link");
  folder.remove_tree("file");
  EXPECT_TRUE(fs::exists(place_ / "victim/thesis"));
  EXPECT_EQ(folder.names(), std::vector<std::string>{"victim"});
}

TEST_F(FolderTest, RemovesTreesWithoutLeavingThem) {
  fs::create_directories(place_ / "tree/deep/er");
  fs::create_directories(place_ / "victim");
  write("victim/thesis");
  write("tree/deep/file");
  fs::create_directory_symlink(place_ / "victim", place_ / "tree/deep/er/link");
  const Folder folder(place_.string());
  EXPECT_FALSE(folder.remove_empty("tree"));
  folder.remove_tree("tree");
  folder.remove_tree("tree");  // nothing there: well
  EXPECT_FALSE(fs::exists(place_ / "tree"));
  EXPECT_TRUE(fs::exists(place_ / "victim/thesis"));
}

// The folder that was opened counts, not what its path names later.
TEST_F(FolderTest, StaysWithTheFolderThatWasOpened) {
  fs::create_directories(place_ / "a");
  fs::create_directories(place_ / "victim");
  const Folder a((place_ / "a").string());
  fs::rename(place_ / "a", place_ / "b");
  fs::create_directory_symlink(place_ / "victim", place_ / "a");
  a.create_file("x");
  EXPECT_TRUE(fs::exists(place_ / "b/x"));
  EXPECT_TRUE(fs::is_empty(place_ / "victim"));
}

TEST_F(FolderTest, ExchangesTwoFolders) {
  fs::create_directories(place_ / "a");
  fs::create_directories(place_ / "b");
  write("a/1");
  write("b/2");
  const Folder folder(place_.string());
  if (const int code = folder.try_exchange("a", folder, "b"); code != 0) GTEST_SKIP() << "not on this file system";
  EXPECT_TRUE(fs::exists(place_ / "a/2"));
  EXPECT_TRUE(fs::exists(place_ / "b/1"));
  EXPECT_NE(folder.try_exchange("a", folder, "none"), 0);
  EXPECT_TRUE(fs::exists(place_ / "a/2"));
}

TEST_F(FolderTest, OneLockAtATime) {
  const Folder first(place_.string());
  ASSERT_EQ(first.lock(), LockResult::kTaken);
  {
    const Folder second(place_.string());
    EXPECT_EQ(second.lock(), LockResult::kHeldByAnother);
  }
  EXPECT_EQ(first.lock(), LockResult::kTaken);
}

TEST_F(FolderTest, PipesAreRefusedAtOnce) {
  ASSERT_EQ(mkfifo((place_ / "pipe").c_str(), 0600), 0);
  const Folder folder(place_.string());
  EXPECT_NE(message([&] { folder.open_file("pipe"); }).find("regular file"), std::string::npos);
  EXPECT_EQ(folder.status("pipe").kind, FileKind::kOther);
}

TEST_F(FolderTest, RefusalsNameThePathAndTheReason) {
  fs::create_directories(place_ / "full/inside");
  write("file");
  const Folder folder(place_.string());
  const std::string place = place_.string();
  const auto expect = [&](const std::string& text, const std::function<void()>& action) {
    EXPECT_EQ(message(action), text);
  };
  expect(place + "/none: cannot open the folder: No such file or directory", [&] { Folder(place + "/none"); });
  expect(place + "/file: cannot open the folder: Not a directory", [&] { Folder::open_if_there(place + "/file"); });
  EXPECT_FALSE(Folder::open_if_there(place + "/none").has_value());
  expect(place + "/file: expected a folder, found a file", [&] { folder.open_folder("file"); });
  expect(place + "/none: cannot open the folder: No such file or directory", [&] { folder.open_folder("none"); });
  expect(place + "/full: expected a regular file, found a folder", [&] { folder.open_file("full"); });
  expect(place + "/none: cannot open: No such file or directory", [&] { folder.open_file("none"); });
  expect(place + "/file: cannot create: File exists", [&] { folder.create_file("file"); });
  expect(place + "/full: cannot create the folder: File exists", [&] { folder.make_folder("full"); });
  expect(place + "/full: cannot rename into place: Is a directory", [&] { folder.rename("file", folder, "full"); });
  expect(place + "/full: cannot remove: Is a directory", [&] { folder.remove_file("full"); });
  expect(place + "/file: cannot remove: Not a directory", [&] { folder.remove_empty("file"); });
  EXPECT_TRUE(folder.remove_empty("none"));
  EXPECT_FALSE(folder.remove_empty("full"));
  EXPECT_EQ(folder.names(), (std::vector<std::string>{"file", "full"}));
}

#if defined(__linux__)
TEST(WriteBytes, AFullDiskIsToldWithAdvice) {
  const UniqueFd full(open("/dev/full", O_WRONLY | O_CLOEXEC));
  ASSERT_TRUE(full);
  const std::vector<std::byte> bytes(16);
  try {
    write_bytes(full, bytes, "/dev/full");
    FAIL() << "the write went well";
  } catch (const SystemError& error) {
    EXPECT_STREQ(error.what(),
                 "/dev/full: cannot write: No space left on device; free some space and run the same command again");
  }
}
#endif

// Each level takes a descriptor and a part of the stack.
TEST_F(FolderTest, ATreeOfManyLevelsIsRefused) {
  fs::path deep = place_ / "tree";
  for (int i = 0; i < 100; ++i) deep /= "d";
  fs::create_directories(deep);
  const Folder folder(place_.string());
  const std::string text = message([&] { folder.remove_tree("tree"); });
  EXPECT_NE(text.find("at most 32 levels"), std::string::npos) << text;
  EXPECT_TRUE(fs::exists(deep));
}

TEST(PlainName, IsOneNameInAFolder) {
  for (const char* name : {"x", "model.safetensors", "..x", ".x", "a b"}) EXPECT_TRUE(is_plain_name(name)) << name;
  for (const char* name : {"", ".", "..", "a/b", "/a", "../x"}) EXPECT_FALSE(is_plain_name(name)) << name;
  EXPECT_FALSE(is_plain_name(std::string("a\0b", 3)));
}

TEST(UniqueFd, ClosesOnce) {
  UniqueFd a = open_regular_file("/proc/self/cmdline");
  const int number = a.get();
  UniqueFd b = std::move(a);
  EXPECT_FALSE(a);
  EXPECT_EQ(b.get(), number);
  b.reset();
  EXPECT_FALSE(b);
  EXPECT_TRUE(b.close());
}

}  // namespace
}  // namespace metal_marlin

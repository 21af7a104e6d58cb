// AtomicFile and MappedFile.
#include <gtest/gtest.h>
#include <metal_marlin/error.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "core/files/atomic_file.h"
#include "core/files/mapped_file.h"

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

  // Whatever the folder holds beside the files that a test names.
  int temporaries() const {
    int n = 0;
    for (const auto& entry : std::filesystem::directory_iterator(folder_))
      n += entry.path().filename().string().starts_with(".metal-marlin-") ? 1 : 0;
    return n;
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
  EXPECT_EQ(temporaries(), 0);
}

TEST_F(Files, WithoutCommitTheOldFileStays) {
  write_text_file(path("x"), "old");
  {
    AtomicFile file(path("x"));
    file.write("new");
  }
  EXPECT_EQ(read_text_file(path("x")), "old");
  EXPECT_EQ(temporaries(), 0);
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
  EXPECT_EQ(temporaries(), 0);
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

// Somebody who can write to the folder puts links where a temporary file might come.
TEST_F(Files, WritesThroughNoLink) {
  write_text_file(path("victim"), "precious");
  std::filesystem::create_symlink(path("victim"), path("x.tmp"));
  std::filesystem::create_symlink(path("victim"), path("x"));
  write_text_file(path("x"), "new");
  EXPECT_EQ(read_text_file(path("victim")), "precious");
  EXPECT_FALSE(std::filesystem::is_symlink(path("x")));
  EXPECT_TRUE(std::filesystem::is_symlink(path("x.tmp")));  // not ours: it stays
}

// kill -9 in the middle: a child leaves its file behind, the next writer removes it. One that is still written stays.
TEST_F(Files, LeftoversOfKilledProcessesAreRemoved) {
  const pid_t child = fork();
  if (child == 0) {
    auto* file = new AtomicFile(path("x"));
    file->write("half");
    kill(getpid(), SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_EQ(temporaries(), 1);
  AtomicFile alive(path("y"));
  EXPECT_EQ(temporaries(), 1);  // the dead one is gone, the one of `alive` is there
  write_text_file(path("z"), "z");
  alive.write("y");
  alive.commit();
  EXPECT_EQ(read_text_file(path("y")), "y");
  EXPECT_EQ(temporaries(), 0);
  // A name of this form that is no file of ours is left alone.
  std::filesystem::create_symlink(path("y"), path(".metal-marlin-0123456789abcdef.tmp"));
  write_text_file(path("z"), "z");
  EXPECT_TRUE(std::filesystem::is_symlink(path(".metal-marlin-0123456789abcdef.tmp")));
}

TEST_F(Files, ScratchFilesHaveNoName) {
  const UniqueFd fd = open_scratch_file(path("scratch"));
  write_at(fd, "abc", 3, 5, "scratch");
  char text[3] = {};
  read_at(fd, text, 3, 5, "scratch");
  EXPECT_EQ(std::string_view(text, 3), "abc");
  EXPECT_NE(message([&] { read_at(fd, text, 3, 6, "scratch"); }).find("ends at byte 8"), std::string::npos);
  EXPECT_TRUE(std::filesystem::is_empty(folder_));
}

// Neither waits for a writer that never comes.
TEST_F(Files, PipesAreRefusedAtOnce) {
  ASSERT_EQ(mkfifo(path("pipe").c_str(), 0600), 0);
  EXPECT_NE(message([&] { read_text_file(path("pipe")); }).find("regular file"), std::string::npos);
  EXPECT_NE(message([&] { MappedFile file(path("pipe")); }).find("regular file"), std::string::npos);
  EXPECT_NE(message([&] { MappedFile file("/dev/zero"); }).find("regular file"), std::string::npos);
}

TEST_F(Files, AMappedFileThatShrinksIsTold) {
  write_text_file(path("x"), std::string(1 << 20, 'a'));
  const MappedFile file(path("x"));
  file.check_unchanged();
  std::filesystem::resize_file(path("x"), 5000);
  const auto bytes = file.bytes();
  EXPECT_EQ(bytes[100], std::byte{'a'});
  EXPECT_EQ(bytes[900000], std::byte{0});  // no signal
  EXPECT_EQ(bytes[500000], std::byte{0});
  EXPECT_NE(message([&] { file.check_unchanged(); }).find("it had 1048576 bytes and has 5000"), std::string::npos);
  // Grown again to its size: what was read before was wrong nevertheless.
  std::filesystem::resize_file(path("x"), 1 << 20);
  EXPECT_NE(message([&] { file.check_unchanged(); }).find("changed while it was read"), std::string::npos);
}

TEST_F(Files, AMappedFileThatIsWrittenToIsTold) {
  write_text_file(path("x"), "abcdef");
  std::filesystem::last_write_time(path("x"), std::filesystem::file_time_type::clock::now() - std::chrono::hours(1));
  const MappedFile file(path("x"));
  EXPECT_EQ(file.checked([&] { return file.bytes()[0]; }), std::byte{'a'});
  std::ofstream(path("x"), std::ios::in) << "ABC";
  EXPECT_NE(message([&] { file.check_unchanged(); }).find("somebody wrote to it"), std::string::npos);
  // The change counts more than what the reader makes of the changed bytes.
  EXPECT_NE(message([&] { file.checked([]() -> int { throw SystemError("another reason"); }); }).find("changed"),
            std::string::npos);
  // Another file under the same name is not the one that is mapped.
  const MappedFile second(path("x"));
  write_text_file(path("x"), "123456");
  second.check_unchanged();
  EXPECT_EQ(second.bytes()[0], std::byte{'A'});
}

std::atomic<int> foreign_faults{0};

// Signals of others' mappings go to the handler that was there before, and ours is gone with the last mapping.
TEST_F(Files, TheSignalHandlerIsThereOnlyWhileFilesAreMapped) {
  struct sigaction theirs {};
  theirs.sa_handler = [](int) { ++foreign_faults; };
  struct sigaction before {};
  ASSERT_EQ(sigaction(SIGBUS, &theirs, &before), 0);
  write_text_file(path("x"), "abc");
  struct sigaction now {};
  {
    const MappedFile file(path("x"));
    sigaction(SIGBUS, nullptr, &now);
    EXPECT_NE(now.sa_handler, theirs.sa_handler);
    raise(SIGBUS);
    EXPECT_EQ(foreign_faults, 1);
  }
  sigaction(SIGBUS, nullptr, &now);
  EXPECT_EQ(now.sa_handler, theirs.sa_handler);
  sigaction(SIGBUS, &before, nullptr);
}

TEST_F(Files, MapRefusesWhatIsNoFile) {
  EXPECT_NE(message([&] { MappedFile file(path("none")); }).find(path("none")), std::string::npos);
  EXPECT_NE(message([&] { MappedFile file(folder_); }).find("regular file"), std::string::npos);
}

}  // namespace
}  // namespace metal_marlin

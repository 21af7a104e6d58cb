// A held folder is reached by its path, whatever that names by now.
#include "core/files/held_folder.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>

#include "core/files/atomic_file.h"

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;

class HeldFolderTest : public testing::Test {
 protected:
  HeldFolderTest() {
    std::string name = (fs::temp_directory_path() / "mm_held_XXXXXX").string();
    EXPECT_NE(mkdtemp(name.data()), nullptr);
    place_ = name;
    fs::create_directories(place_ / "out/in");
    fs::create_directories(place_ / "evil/in");
  }
  ~HeldFolderTest() override { fs::remove_all(place_); }
  std::string at(const std::string& name) const { return (place_ / name).string(); }
  // evil takes the place of out, which is called away then.
  void swap() const {
    fs::rename(at("out"), at("away"));
    fs::rename(at("evil"), at("out"));
  }

  fs::path place_;
};

TEST_F(HeldFolderTest, WhatIsWrittenGoesIntoTheFolderThatWasOpened) {
  {
    const HeldFolder held(std::make_shared<const Folder>(at("out")));
    swap();
    write_text_file(at("out/a"), "1");
    write_text_file(at("out/in/../in/b"), "2");
    EXPECT_EQ(make_held(at("out/new/deep/")).names().size(), 0u);
    EXPECT_TRUE(held_exists(at("out/in/b")));
    EXPECT_FALSE(held_exists(at("out/none/b")));
    EXPECT_FALSE(open_held_if_there(at("out/none")).has_value());
    EXPECT_EQ(read_text_file(open_held_file(at("out/in/b")), "b"), "2");
    const UniqueFd scratch = open_scratch_file(at("out/scratch"));
    EXPECT_TRUE(static_cast<bool>(scratch));
  }
  EXPECT_TRUE(fs::is_empty(at("out/in")));
  EXPECT_EQ(read_text_file(at("away/a")), "1");
  EXPECT_EQ(read_text_file(at("away/in/b")), "2");
  EXPECT_TRUE(fs::is_directory(at("away/new/deep")));
  write_text_file(at("out/a"), "3");  // held no more
  EXPECT_EQ(read_text_file(at("out/a")), "3");
}

TEST_F(HeldFolderTest, LinksBelowItAreRefused) {
  const HeldFolder held(std::make_shared<const Folder>(at("out")));
  fs::remove(at("out/in"));
  fs::create_directory_symlink(at("evil"), at("out/in"));
  EXPECT_THROW(write_text_file(at("out/in/a"), "1"), SystemError);
  EXPECT_THROW(open_scratch_file(at("out/in/a")), SystemError);
  EXPECT_THROW(make_held(at("out/in/a")), SystemError);
  EXPECT_THROW(open_held(at("out/in")), SystemError);
  std::ofstream(at("evil/secret")) << "secret";
  EXPECT_THROW(open_held_file(at("out/in/secret")), SystemError);
  fs::create_symlink(at("evil/secret"), at("out/link"));
  EXPECT_THROW(open_held_file(at("out/link")), SystemError);
  EXPECT_EQ(std::distance(fs::directory_iterator(at("evil")), fs::directory_iterator()), 2);
}

// A name that begins with the held folder's is another folder; of two held ones the inner one counts.
TEST_F(HeldFolderTest, TheLongestPathCounts) {
  const HeldFolder outer(std::make_shared<const Folder>(at("out")));
  const HeldFolder inner(std::make_shared<const Folder>(at("out/in")));
  fs::create_directories(at("outer"));
  swap();  // the outer one's path does not count
  write_text_file(at("out/in/a"), "1");
  write_text_file(at("outer/a"), "2");
  EXPECT_EQ(read_text_file(at("away/in/a")), "1");
  EXPECT_EQ(read_text_file(at("outer/a")), "2");
}

// A real folder in its place, which no link leads to, is noticed at each use; put back, the held one is used again.
TEST_F(HeldFolderTest, OneInsideAnotherMustStayInItsPlace) {
  const HeldFolder outer(std::make_shared<const Folder>(at("out")));
  const HeldFolder inner(std::make_shared<const Folder>(at("out/in")));
  fs::create_directories(at("out/in/deep"));
  const HeldFolder innermost(std::make_shared<const Folder>(at("out/in/deep")));
  fs::rename(at("out/in"), at("kept"));
  for (const bool other : {false, true}) {
    if (other) fs::rename(at("evil/in"), at("out/in"));
    for (const char* file : {"out/in/a", "out/in/deep/a"}) {
      EXPECT_THROW(write_text_file(at(file), "1"), SystemError) << file;
      EXPECT_THROW(open_scratch_file(at(file)), SystemError) << file;
      EXPECT_THROW(open_held_file(at(file)), SystemError) << file;
      EXPECT_THROW(held_exists(at(file)), SystemError) << file;
    }
    EXPECT_THROW(open_held(at("out/in")), SystemError);
    EXPECT_THROW(make_held(at("out/in")), SystemError);
    EXPECT_THROW(make_held(at("out/in/new")), SystemError);
  }
  EXPECT_TRUE(fs::is_empty(at("out/in")));
  write_text_file(at("out/b"), "2");  // the outer one is as it was
  fs::remove(at("out/in"));
  fs::rename(at("kept"), at("out/in"));
  write_text_file(at("out/in/deep/a"), "3");
  EXPECT_EQ(read_text_file(at("out/in/deep/a")), "3");
}

}  // namespace
}  // namespace metal_marlin

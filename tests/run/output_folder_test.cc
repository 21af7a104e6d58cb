// How a result gets into its folder, without a run.
#include "run/output/output_folder.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;

class OutputFolderTest : public testing::Test {
 protected:
  void SetUp() override {
    place_ = fs::temp_directory_path() / ("output_folder_" + std::to_string(getpid()));
    fs::remove_all(place_);
    fs::create_directories(place_);
    output_ = place_ / "out";
  }
  void TearDown() override { fs::remove_all(place_); }

  static void write(const fs::path& path, const std::string& text) { std::ofstream(path) << text; }
  static std::string read(const fs::path& path) {
    std::ifstream file(path);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  static std::set<std::string> names(const fs::path& folder) {
    std::set<std::string> out;
    for (const auto& entry : fs::directory_iterator(folder)) out.insert(entry.path().filename().string());
    return out;
  }
  OutputFolder open() { return OutputFolder(output_.string(), OutputFolder::Use::kWrite, warn_); }
  // A result that lists its files, as convert leaves one.
  static void stage_result(const fs::path& staged, const std::string& config, const std::vector<std::string>& weights) {
    write(staged / "config.json", config);
    std::string files = R"("config.json")";
    for (const std::string& name : weights) {
      write(staged / name, name);
      files += R"(, ")" + name + R"(")";
    }
    write(staged / kManifestName, R"({"program": "metal-marlin", "version": "1", "files": [)" + files + "]}");
  }

  fs::path place_;
  fs::path output_;
  std::vector<std::string> warnings_;
  OutputFolder::Warn warn_ = [this](const std::string& text) { warnings_.push_back(text); };
};

TEST_F(OutputFolderTest, AResultIsStagedAsideAndPlacedWhole) {
  OutputFolder folder = open();
  const fs::path staged = folder.stage();
  EXPECT_EQ(staged, output_ / ".metal-marlin/result");
  EXPECT_TRUE(fs::is_empty(staged));
  stage_result(staged, "{}", {"model.safetensors"});
  EXPECT_TRUE(folder.staged(kManifestName));
  EXPECT_FALSE(folder.staged("README.md"));
  EXPECT_FALSE(fs::exists(output_ / "config.json"));
  folder.place(warn_);
  EXPECT_EQ(names(output_), (std::set<std::string>{kManifestName, "config.json", "model.safetensors"}));
  EXPECT_EQ(read(output_ / "model.safetensors"), "model.safetensors");
  EXPECT_EQ(names(place_), std::set<std::string>{"out"});  // nothing beside it
  EXPECT_TRUE(warnings_.empty());
}

TEST_F(OutputFolderTest, OfAnOldResultOnlyWhatItListsIsReplaced) {
  const std::pair<const char*, std::vector<std::string>> results[] = {{"old", {"a.safetensors", "b.safetensors"}},
                                                                      {"new", {"a.safetensors"}}};
  for (const auto& [config, weights] : results) {
    OutputFolder folder = open();
    stage_result(folder.stage(), config, weights);
    folder.place(warn_);
  }
  EXPECT_EQ(read(output_ / "config.json"), "new");
  EXPECT_EQ(names(output_), (std::set<std::string>{kManifestName, "config.json", "a.safetensors"}));
}

TEST_F(OutputFolderTest, AFileOfSomebodyElseStopsItAndNothingChanges) {
  {
    OutputFolder folder = open();
    stage_result(folder.stage(), "old", {"a.safetensors"});
    folder.place(warn_);
  }
  write(output_ / "notes.txt", "mine");
  OutputFolder folder = open();
  stage_result(folder.stage(), "new", {"a.safetensors"});
  try {
    folder.place(warn_);
    FAIL() << "placed";
  } catch (const SystemError& e) {
    EXPECT_NE(std::string(e.what()).find("notes.txt"), std::string::npos) << e.what();
  }
  EXPECT_EQ(read(output_ / "notes.txt"), "mine");
  EXPECT_EQ(read(output_ / "config.json"), "old");
}

TEST_F(OutputFolderTest, WhatWasNotPlacedLeavesNoFolder) {
  {
    OutputFolder folder = open();
    fs::path staged = folder.stage();
    write(staged / "config.json", "{}");
    folder.remove_journal();
  }
  EXPECT_FALSE(fs::exists(output_));
}

TEST_F(OutputFolderTest, OneProcessAtATime) {
  const OutputFolder folder = open();
  EXPECT_THROW(open(), SystemError);
}

TEST_F(OutputFolderTest, AFileInItsPlaceIsNamed) {
  write(output_, "a file");
  try {
    open();
    FAIL() << "opened";
  } catch (const ArgumentError& e) {
    EXPECT_NE(std::string(e.what()).find(output_.string()), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace metal_marlin

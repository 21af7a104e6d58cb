// What a card takes over from the model's own folder, and from nowhere else.
#include "report/card_facts.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;

constexpr const char* kCard =
    "---\nbase_model: org/name\ntags:\n- metal-marlin\nquantization:\n  \"calibration\": \"secret.txt\"\n---\n";

class CardFactsTest : public testing::Test {
 protected:
  CardFactsTest() : place_(fs::temp_directory_path() / ("card_facts_" + std::to_string(getpid()))) {
    fs::create_directories(place_ / "m");
    fs::create_directories(place_ / "outside");
  }
  ~CardFactsTest() override { fs::remove_all(place_); }
  void write(const std::string& name, const std::string& text) const { std::ofstream(place_ / name) << text; }
  CardFacts facts() const { return card_facts((place_ / "m").string()); }

  fs::path place_;
};

TEST_F(CardFactsTest, ACardOfTheModelIsRead) {
  write("m/README.md", kCard);
  EXPECT_EQ(facts().calibration, "secret.txt");
  fs::rename(place_ / "m/README.md", place_ / "m/card.md");
  fs::create_symlink("card.md", place_ / "m/README.md");
  EXPECT_EQ(facts().calibration, "secret.txt");
}

TEST_F(CardFactsTest, LinksOutOfTheFolderAreNotFollowed) {
  write("outside/README.md", kCard);
  fs::create_symlink(place_ / "outside/README.md", place_ / "m/README.md");
  EXPECT_EQ(facts().calibration, "");
  EXPECT_EQ(facts().name, "");
  fs::remove(place_ / "m/README.md");
  fs::copy_file(std::string(TEST_DATA) + "/report/evaluated.json", place_ / "outside/report.json");
  fs::create_symlink(place_ / "outside/report.json", place_ / "m/report.json");
  EXPECT_EQ(facts().name, "");
  fs::remove(place_ / "m/report.json");
  fs::copy_file(place_ / "outside/report.json", place_ / "m/report.json");
  EXPECT_NE(facts().name, "");
}

// A snapshot of a hub's cache holds nothing but links into its repository.
TEST_F(CardFactsTest, LinksToTheBlobsOfARepositoryAreFollowed) {
  fs::create_directories(place_ / "models--x--y/blobs");
  fs::create_directories(place_ / "models--x--y/snapshots/abc");
  write("models--x--y/blobs/1", kCard);
  fs::create_symlink("../../blobs/1", place_ / "models--x--y/snapshots/abc/README.md");
  EXPECT_EQ(card_facts((place_ / "models--x--y/snapshots/abc").string()).calibration, "secret.txt");
}

}  // namespace
}  // namespace metal_marlin

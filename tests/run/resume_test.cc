// What a run makes of its output folder: every state that such a folder can be in, made by hand.
#include "run/resume.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <type_traits>

#include "records/json_records.h"
#include "run/run_identity.h"
#include "stages/block_fixture.h"

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class ResumeTest : public BlockFixture {
 protected:
  void SetUp() override {
    place_ = fs::temp_directory_path() / ("resume_" + std::to_string(getpid()));
    fs::remove_all(place_);
    output_ = place_ / "out";
    identity_ = run_identity(run_options_, recipe_, *source_);
  }
  void TearDown() override { fs::remove_all(place_); }

  Start decide() {
    const OutputFolder folder(output_.string(), OutputFolder::Use::kLook, warn_);
    return decide_start(folder, Journal(output_.string()), *source_, identity_, run_options_, warn_);
  }
  template <typename E>
  std::string refusal() {
    try {
      decide();
    } catch (const E& error) {
      if constexpr (std::is_same_v<E, ArgumentError>) {
        EXPECT_EQ(error.option(), "output") << error.what();
      }
      return error.what();
    }
    return "not refused so";
  }
  void write(const std::string& name, const std::string& text) const {
    fs::create_directories((output_ / name).parent_path());
    std::ofstream(output_ / name) << text;
  }
  void begin_journal(const IdentityRecord& of) const {
    fs::create_directories(output_);
    Journal(output_.string()).begin(run_fingerprint(of), of);
  }
  // A result of this program: two files and the report that lists them.
  void write_result(const IdentityRecord& of) const {
    write("config.json", "{}");
    write("model.safetensors", "12345678");
    write("report.json", json{{"program", "metal-marlin"},
                              {"run", {{"fingerprint", run_fingerprint(of)}, {"identity", json_of(of)}}},
                              {"files",
                               {{{"format", "native"}, {"name", "config.json"}, {"bytes", 2}},
                                {{"format", "native"}, {"name", "model.safetensors"}, {"bytes", 8}}}}}
                             .dump());
  }
  IdentityRecord other() const {
    QuantizeOptions o = run_options_;
    o.act_order = !o.act_order;
    return run_identity(o, recipe_, *source_);
  }

  fs::path place_;
  fs::path output_;
  IdentityRecord identity_;
  std::vector<std::string> warnings_;
  OutputFolder::Warn warn_ = [this](const std::string& text) { warnings_.push_back(text); };
};

TEST_F(ResumeTest, NothingThereIsAFreshStart) {
  EXPECT_EQ(decide(), Start::kFresh);
  fs::create_directories(output_);
  EXPECT_EQ(decide(), Start::kFresh);
  EXPECT_TRUE(warnings_.empty());
}

TEST_F(ResumeTest, TheJournalOfThisRunGoesOn) {
  begin_journal(identity_);
  EXPECT_EQ(decide(), Start::kResume);
  run_options_.resume = false;
  EXPECT_EQ(decide(), Start::kFresh);
  ASSERT_EQ(warnings_.size(), 1u);
  EXPECT_NE(warnings_[0].find("--no-resume"), std::string::npos);
}

TEST_F(ResumeTest, TheJournalOfAnotherRunIsKeptUnlessItMayGo) {
  begin_journal(other());
  const std::string text = refusal<ArgumentError>();
  EXPECT_NE(text.find("holds an interrupted run that is another"), std::string::npos) << text;
  run_options_.overwrite = true;
  EXPECT_EQ(decide(), Start::kFresh);
  ASSERT_EQ(warnings_.size(), 1u);
  EXPECT_NE(warnings_[0].find("--overwrite"), std::string::npos);
}

TEST_F(ResumeTest, ADamagedJournalIsKeptUnlessItMayGo) {
  write(".metal-marlin/run.json", "{");
  EXPECT_NE(refusal<FormatError>().find("run.json"), std::string::npos);
  fs::remove(output_ / ".metal-marlin/run.json");
  write(".metal-marlin/block-00000.json", "{}");
  EXPECT_NE(refusal<FormatError>().find("run.json is missing"), std::string::npos);
  run_options_.overwrite = true;
  EXPECT_EQ(decide(), Start::kFresh);
  EXPECT_EQ(warnings_.size(), 1u);
}

TEST_F(ResumeTest, FilesOfOthersAreNeverTouched) {
  write("notes.txt", "mine");
  EXPECT_NE(refusal<SystemError>().find("notes.txt"), std::string::npos);
  run_options_.overwrite = true;
  EXPECT_NE(refusal<SystemError>().find("notes.txt"), std::string::npos);
  run_options_.overwrite = false;
  begin_journal(identity_);
  EXPECT_NE(refusal<SystemError>().find("notes.txt"), std::string::npos);
}

TEST_F(ResumeTest, AFinishedResultIsKnownByItsFilesAndOptions) {
  write_result(identity_);
  EXPECT_EQ(decide(), Start::kComplete);
  write("model.safetensors", "123");  // another size
  EXPECT_EQ(decide(), Start::kRedo);
  ASSERT_EQ(warnings_.size(), 1u);
  EXPECT_NE(warnings_[0].find("model.safetensors"), std::string::npos);
  fs::remove(output_ / "model.safetensors");
  EXPECT_EQ(decide(), Start::kRedo);
  write_result(other());
  EXPECT_NE(refusal<ArgumentError>().find("holds another result"), std::string::npos);
  run_options_.overwrite = true;
  EXPECT_EQ(decide(), Start::kFresh);
}

}  // namespace
}  // namespace metal_marlin

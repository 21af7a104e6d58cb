// What a run does before its first block, without the blocks.
#include "run/prepare_run.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/files/digest.h"
#include "records/json_records.h"
#include "run/run_identity.h"
#include "stages/block_fixture.h"

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;

class PrepareRunTest : public BlockFixture {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("prepare_run_" + std::to_string(getpid()));
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    text_ = (folder_ / "text.txt").string();
    output_ = (folder_ / "out").string();
    std::ofstream text(text_);
    for (int i = 0; i < 3000; ++i) text << (i % 7 == 0 ? "the model\n" : "weights and ") << i % 10 << " ";
    text.close();
    options_.calibration.calibration = {text_};
    options_.calibration.samples = 8;
    options_.calibration.sequence_length = 32;
    options_.evaluation.text = text_;
    options_.evaluation.chunks = 2;
    options_.evaluation.context = 32;
    plan();
  }
  void TearDown() override { fs::remove_all(folder_); }
  RunJob run() const { return {*source_, run_options_, output_}; }
  PreparedRun prepare(Start start, const IdentityRecord& identity) {
    OutputFolder folder(output_, OutputFolder::Use::kWrite, [](const std::string&) {});
    Journal journal(output_);
    return prepare_run(run(), recipe_, layers_, {}, {folder, journal, identity, start}, tracker_);
  }
  IdentityRecord identity() const { return run_identity(run_options_, recipe_, *source_); }

  fs::path folder_;
  std::string text_;
  std::string output_;
};

TEST_F(PrepareRunTest, AResumedRunTakesWhatTheFirstHadPrepared) {
  const IdentityRecord identity = this->identity();
  const PreparedRun first = prepare(Start::kFresh, identity);
  EXPECT_EQ(first.texts.calibration.sequences.size(), 8u);
  EXPECT_EQ(first.texts.held_back.sequences.size(), 2u);
  EXPECT_GT(first.memory.peak_bytes, 0u);
  EXPECT_EQ(Journal(output_).fingerprint(), run_fingerprint(identity));
  fs::remove(text_);
  const PreparedRun second = prepare(Start::kResume, identity);
  EXPECT_EQ(second.texts.calibration.sequences, first.texts.calibration.sequences);
  EXPECT_EQ(second.texts.held_back.sequences, first.texts.held_back.sequences);
  EXPECT_EQ(second.texts.held_back_source, first.texts.held_back_source);
  EXPECT_EQ(json_of(second.texts.record), json_of(first.texts.record));
}

TEST_F(PrepareRunTest, AFaultyTextLeavesNoJournal) {
  const IdentityRecord identity = this->identity();
  std::ofstream(text_) << "";
  EXPECT_THROW(prepare(Start::kFresh, identity), FormatError);
  EXPECT_FALSE(Journal(output_).exists());
}

TEST_F(PrepareRunTest, BitsAreChosenByTheStoredMeasurement) {
  options_.target_bits = 9;  // of groups of 8, whose scales and zeros count
  options_.sensitivity_tokens = 64;
  plan();
  Journal journal(output_);
  journal.begin(std::string(Digest::kDigits, '1'));
  const ChosenBits measured = choose_run_bits(run(), recipe_, layers_, tokens(8, 32, 4), journal, tracker_);
  EXPECT_FALSE(measured.grids.empty());
  EXPECT_TRUE(fs::exists(fs::path(journal.folder()) / "sensitivity.json"));
  // Nothing is left to measure on.
  const ChosenBits again = choose_run_bits(run(), recipe_, layers_, {}, journal, tracker_);
  EXPECT_GT(measured.record.estimated_kl, 0);
  EXPECT_EQ(again.record.estimated_kl, measured.record.estimated_kl);
  EXPECT_EQ(again.record.bits_per_weight, measured.record.bits_per_weight);
  EXPECT_EQ(again.grids, measured.grids);
  // No other command goes on with a run whose limit nothing meets.
  run_options_.target_bits = 1;
  EXPECT_THROW(choose_run_bits(run(), recipe_, layers_, {}, journal, tracker_), ArgumentError);
  EXPECT_FALSE(journal.exists());
}

TEST_F(PrepareRunTest, ChecksComeBeforeTheWork) {
  options_.skip = {"*nothing_like_it*"};
  plan();
  check_before_work(run(), recipe_, layers_, tracker_);
  ASSERT_EQ(tracker_.warnings().size(), 1u);
  EXPECT_NE(tracker_.warnings()[0].find("matches no linear"), std::string::npos);
  options_.target_bits = 2;  // less than the least width with the scales of its groups
  options_.skip.clear();
  plan();
  EXPECT_THROW(check_before_work(run(), recipe_, layers_, tracker_), ArgumentError);
  const RunStatistics none = open_statistics(run(), recipe_);
  EXPECT_EQ(none.file, nullptr);
}

}  // namespace
}  // namespace metal_marlin

// The loop over blocks, its streams and its texts, on a tiny model and without a run: nothing is written but the
// journal.
#include "run/run_blocks.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <utility>

#include "core/files/atomic_file.h"
#include "core/files/digest.h"
#include "model/reference.h"
#include "run/run_texts.h"
#include "stages/block_fixture.h"

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;

Matrix states_of(const Stream& stream) {
  Matrix m(stream.rows(), stream.hidden());
  stream.read_rows(0, m.rows(), m.data());
  return m;
}

class RunBlocksTest : public BlockFixture {
 protected:
  RunBlocksTest() {
    texts_.calibration = tokens(16, 32, 1);
    texts_.held_back = tokens(4, 24, 2);
  }
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("run_blocks_" + std::to_string(getpid()));
    fs::remove_all(folder_);
    journal_ = std::make_unique<Journal>(folder_.string());
    journal_->begin(std::string(Digest::kDigits, '1'));
  }
  void TearDown() override {
    unsetenv("METAL_MARLIN_SNAPSHOT_SECONDS");
    fs::remove_all(folder_);
  }
  BlocksJob blocks() const { return {*source_, recipe_, layers_, texts_}; }
  RunStreams streams() const { return make_streams(*source_, recipe_, texts_, ""); }
  std::string error_of(const std::function<void()>& act) const {
    try {
      act();
    } catch (const Error& e) {
      return e.what();
    }
    return "no error";
  }

  fs::path folder_;
  RunTexts texts_;
  std::unique_ptr<Journal> journal_;
};

TEST_F(RunBlocksTest, AReplayedRunHasTheSameStates) {
  RunStreams first = streams();
  const BlocksDone done = run_blocks(blocks(), first, *journal_, tracker_);
  EXPECT_EQ(done.resumed, 0);
  EXPECT_GT(done.forward_operations, 0);
  EXPECT_EQ(journal_->finished_blocks(), source_->config().num_hidden_layers);
  // The reference is the source's own stream.
  const auto plain = stream(texts_.held_back);
  for (int64_t layer = 0; layer < source_->config().num_hidden_layers; ++layer) plain->pass_source(layer);
  EXPECT_TRUE(same_values(states_of(*first.reference), states_of(*plain)));
  EXPECT_FALSE(same_values(states_of(*first.quantized), states_of(*plain)));

  RunStreams second = streams();
  const BlocksDone again = run_blocks(blocks(), second, *journal_, tracker_);
  EXPECT_EQ(again.resumed, source_->config().num_hidden_layers);
  EXPECT_EQ(again.forward_operations, 0);
  EXPECT_TRUE(same_values(states_of(*second.quantized), states_of(*first.quantized)));
  EXPECT_TRUE(same_values(states_of(*second.reference), states_of(*first.reference)));
}

// The run saves its states after the first block; another one takes them and makes the second block anew.
TEST_F(RunBlocksTest, SavedStatesGoOnWhereTheyWere) {
  setenv("METAL_MARLIN_SNAPSHOT_SECONDS", "0", 1);
  RunStreams first = streams();
  run_blocks(blocks(), first, *journal_, tracker_);
  ASSERT_EQ(journal_->states_layer(), 1);
  const FinishedBlock whole = finished_block(*source_, layers_, *journal_, 1);
  fs::remove(journal_->block_path(1, "json"));
  RunStreams second = streams();
  const BlocksDone done = run_blocks(blocks(), second, *journal_, tracker_);
  EXPECT_EQ(done.resumed, 1);
  EXPECT_TRUE(same_values(states_of(*second.quantized), states_of(*first.quantized)));
  for (const auto& [name, q] : finished_block(*source_, layers_, *journal_, 1).quantized)
    EXPECT_EQ(q.codes, whole.quantized.at(name).codes) << name;
}

TEST_F(RunBlocksTest, NothingIsSavedWhereTheStatesAreInAFile) {
  setenv("METAL_MARLIN_SNAPSHOT_SECONDS", "0", 1);
  RunStreams spilled = make_streams(*source_, recipe_, texts_, journal_->folder());
  BlocksJob job = blocks();
  job.keep_states = false;
  run_blocks(job, spilled, *journal_, tracker_);
  EXPECT_FALSE(journal_->states_layer());
  RunStreams held = streams();
  run_blocks(blocks(), held, *journal_, tracker_);
  EXPECT_TRUE(same_values(states_of(*spilled.quantized), states_of(*held.quantized)));
}

TEST_F(RunBlocksTest, SnapshotsAreDueByTheirInterval) {
  setenv("METAL_MARLIN_SNAPSHOT_SECONDS", "0", 1);
  EXPECT_TRUE(SnapshotClock().due());
  setenv("METAL_MARLIN_SNAPSHOT_SECONDS", "3600", 1);
  EXPECT_FALSE(SnapshotClock().due());
  unsetenv("METAL_MARLIN_SNAPSHOT_SECONDS");
  EXPECT_FALSE(SnapshotClock().due());
  setenv("METAL_MARLIN_SNAPSHOT_SECONDS", "soon", 1);
  EXPECT_NE(
      error_of([] { SnapshotClock clock; }).find("METAL_MARLIN_SNAPSHOT_SECONDS: expected seconds >= 0, found 'soon'"),
      std::string::npos);
}

TEST_F(RunBlocksTest, StatesOfAnotherRunAreRefused) {
  RunStreams wide = streams();
  embed_texts(texts_, wide);
  save_states(1, wide, *journal_);
  RunStreams same = streams();
  restore_states(1, *journal_, same);
  EXPECT_TRUE(same_values(states_of(*same.reference), states_of(*wide.reference)));
  RunTexts others = texts_;
  others.held_back.sequences.pop_back();
  RunStreams narrow = make_streams(*source_, recipe_, others, "");
  EXPECT_NE(error_of([&] { restore_states(1, *journal_, narrow); }).find("unexpected saved states"), std::string::npos);
  const Matrix m(2, 2);
  const TensorView foreign{"foreign", DType::kF32, {2, 2}, std::as_bytes(m.values())};
  journal_->write_states(2, {&foreign, 1});
  EXPECT_NE(error_of([&] { restore_states(2, *journal_, narrow); }).find("unexpected saved states \"foreign\""),
            std::string::npos);
  // Without the states of a stream the run would go on with zeros.
  const Matrix alone = states_of(*wide.reference);
  const TensorView reference{"reference", DType::kF32, {alone.rows(), alone.cols()}, std::as_bytes(alone.values())};
  journal_->write_states(3, {&reference, 1});
  EXPECT_NE(error_of([&] { restore_states(3, *journal_, same); }).find("expected saved states \"calibration\""),
            std::string::npos);
}

// Means of |x| of the first block's inputs from float64 loops; the validation split is the last two sequences of 16.
TEST_F(RunBlocksTest, StatisticsAreOfTheSourcesInputs) {
  ASSERT_TRUE(recipe_.guard);
  recipe_.first_token_weight = 1;
  RunStreams all = streams();
  embed_texts(texts_, all);
  testing::TestModel plain;
  plain.family = source_->family();
  plain.config = source_->config();
  plain.block = load_block(*source_, 0);
  std::array<std::vector<double>, kLinearInputs> sum;
  std::array<double, kLinearInputs> last_square{};  // of channel 0 in the validation split
  const Matrix start = states_of(*all.calibration);
  for (size_t s = 0; s < 16; ++s) {
    testing::Rows rows;
    for (int64_t i = 0; i < 32; ++i) {
      const auto row = start.row(static_cast<int64_t>(s) * 32 + i);
      rows.emplace_back(row.begin(), row.end());
    }
    const auto out = testing::reference_forward(plain, 0, rows);
    for (size_t t = 0; t < kLinearInputs; ++t) {
      sum[t].resize(out.inputs[t][0].size());
      for (const auto& x : out.inputs[t]) {
        for (size_t k = 0; k < x.size(); ++k) sum[t][k] += std::fabs(x[k]) / (16 * 32);
        if (s >= 14) last_square[t] += x[0] * x[0] / (2 * 32);
      }
    }
  }
  const MeasuredStats got = measure_stats(blocks(), 0, plain.block, all, tracker_);
  EXPECT_GT(got.operations, 0);
  EXPECT_DOUBLE_EQ(got.stats.validation_share, 2.0 / 16);
  for (size_t t = 0; t < kLinearInputs; ++t) {
    const ActivationStats& stats = got.stats.calibration[t];
    EXPECT_EQ(stats.tokens, 16u * 32);
    ASSERT_EQ(stats.mean.size(), sum[t].size());
    for (size_t k = 0; k < sum[t].size(); ++k) ASSERT_NEAR(stats.mean[k], sum[t][k], 1e-4 * sum[t][k] + 1e-7);
    EXPECT_NEAR(got.stats.validation[t].gram(0, 0), last_square[t], 1e-4 * last_square[t]);
    EXPECT_EQ(got.stats.held_back[t].tokens, 4u * 24);
  }
  // Both streams have passed the block.
  EXPECT_FALSE(same_values(states_of(*all.calibration), start));
}

TEST_F(RunBlocksTest, ADamagedBlockIsRefusedBeforeTheWork) {
  RunStreams first = streams();
  run_blocks(blocks(), first, *journal_, tracker_);
  layers_[1].quantized.pop_back();  // a plan of another run
  RunStreams second = streams();
  EXPECT_NE(error_of([&] { run_blocks(blocks(), second, *journal_, tracker_); }).find("run again with --no-resume"),
            std::string::npos);
}

TEST_F(RunBlocksTest, TextsComeBackAsTheyWereStored) {
  const int64_t vocabulary = source_->config().vocab_size;
  EXPECT_FALSE(stored_texts(*journal_, vocabulary));
  texts_.held_back_source = "a.txt";
  texts_.record.sources.resize(1);
  store_texts(*journal_, texts_, std::vector<std::string>{"a warning"});
  const auto got = stored_texts(*journal_, vocabulary);
  ASSERT_TRUE(got);
  EXPECT_EQ(got->texts.calibration.sequences, texts_.calibration.sequences);
  EXPECT_EQ(got->texts.held_back.sequences, texts_.held_back.sequences);
  EXPECT_EQ(got->texts.held_back_source, "a.txt");
  EXPECT_EQ(got->texts.record.sources.size(), 1u);
  EXPECT_EQ(got->warnings, (std::vector<std::string>{"a warning"}));

  const std::string path = (fs::path(journal_->folder()) / "texts.json").string();
  const std::pair<const char*, const char*> damaged[] = {
      {R"({"held_back_source": "", "calibration": {"sources": 3}, "warnings": []})", ": calibration/sources: "},
      {R"({"held_back_source": "", "calibration": 3, "warnings": []})", ": calibration: "},
      {R"({"held_back_source": "", "warnings": []})", ": calibration: expected an object, found nothing"},
      {R"({"held_back_source": 3, "calibration": {}, "warnings": []})", ": held_back_source: "},
      {R"({"calibration": {}, "warnings": []})", ": held_back_source: "},
      {R"({"held_back_source": "", "calibration": {}, "warnings": "x"})", ": warnings: "},
      {R"({"held_back_source": "", "calibration": {}, "warnings": [3]})", ": warnings/0: "},
      {R"({"held_back_source": "", "calibration": {}})", ": warnings: "},
      {"[]", ": expected a JSON object, found array"},
      {"null", ": expected a JSON object, found null"},
      {"{", ": expected a JSON object, found no valid JSON"},
      {"", ": expected a JSON object, found no valid JSON"},
  };
  for (const auto& [text, place] : damaged) {
    write_text_file(path, text);
    const std::string message = error_of([&] { stored_texts(*journal_, vocabulary); });
    EXPECT_NE(message.find(path + place), std::string::npos) << text << ": " << message;
    EXPECT_NE(message.find("run again with --no-resume"), std::string::npos) << message;
  }
  fs::remove(path);  // the tokens alone are not taken
  EXPECT_FALSE(stored_texts(*journal_, vocabulary));
}

// With saved states no block embeds the tokens, and the score takes them as places in the logits.
TEST_F(RunBlocksTest, StoredTokensThatAreNoneOfTheModelAreRefused) {
  const auto vocabulary = static_cast<int32_t>(source_->config().vocab_size);
  for (const int32_t id : {vocabulary, -1, std::numeric_limits<int32_t>::max(), std::numeric_limits<int32_t>::min()}) {
    for (TokenSet* set : {&texts_.calibration, &texts_.held_back}) {
      const int32_t before = std::exchange(set->sequences.back().back(), id);
      store_texts(*journal_, texts_, {});
      const std::string message = error_of([&] { stored_texts(*journal_, vocabulary); });
      EXPECT_NE(message.find("tokens.safetensors: expected tokens from 0 to"), std::string::npos) << message;
      set->sequences.back().back() = before;
    }
  }
}

}  // namespace
}  // namespace metal_marlin

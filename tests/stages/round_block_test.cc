#include "stages/round_block.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include <cmath>

#include "core/half.h"
#include "stages/block_fixture.h"

namespace metal_marlin {
namespace {

class RoundBlockTest : public BlockFixture {
 protected:
  RoundBlockTest() : BlockFixture("llama", Method::kGptq) {}
};

class FusedBlockTest : public BlockFixture {
 protected:
  FusedBlockTest() : BlockFixture("phi3", Method::kGptq) {}
};

// ||(a - b) x|| / ||a x|| in float64, of x with this Gram matrix.
double plain_output_error(const Matrix& a, const Matrix& b, const Matrix& gram) {
  double error = 0;
  double size = 0;
  for (int64_t r = 0; r < a.rows(); ++r) {
    for (int64_t i = 0; i < a.cols(); ++i) {
      for (int64_t j = 0; j < a.cols(); ++j) {
        const double g = gram(i, j);
        error += (static_cast<double>(b(r, i)) - a(r, i)) * g * (static_cast<double>(b(r, j)) - a(r, j));
        size += static_cast<double>(a(r, i)) * g * a(r, j);
      }
    }
  }
  return std::sqrt(error / size);
}

TEST_F(RoundBlockTest, EveryLinearGetsCodesAndARecordWithItsErrors) {
  const Block before = load_block(*source_, 0);
  const BlockStats stats = block_stats();
  const RoundedBlock rounded = round_block(job(), before.clone(), block_stats(), {}, tracker_);
  ASSERT_EQ(rounded.quantized.size(), layers_[0].quantized.size());
  ASSERT_EQ(rounded.linears.size(), rounded.record_of.size());
  for (const LinearSlot& slot : source_->linears(0)) {
    const LinearRecord& record = rounded.linears[rounded.record_of.at(slot.kind)];
    EXPECT_EQ(record.name, slot.weight);
    EXPECT_EQ(record.shape, (std::vector<int64_t>{slot.rows, slot.columns}));
    EXPECT_FALSE(record.chosen);
    const Matrix& weight = before.linear(slot.kind).weight;
    const Matrix& now = rounded.block.linear(slot.kind).weight;
    EXPECT_TRUE(same_values(now, dequantize(rounded.quantized.at(slot.weight))));
    const auto input = static_cast<size_t>(input_of(slot.kind));
    EXPECT_NEAR(record.output_error.value(), plain_output_error(weight, now, stats.calibration[input].gram), 1e-4);
    EXPECT_NEAR(record.held_back_output_error.value(), plain_output_error(weight, now, stats.held_back[input].gram),
                1e-4);
  }
}

// Without statistics the rounding is to nearest, and within half a step.
TEST_F(RoundBlockTest, ToNearestWithoutStatistics) {
  options_.method = Method::kRtn;
  plan();
  const Block before = load_block(*source_, 0);
  const RoundedBlock rounded = round_block(job(), before.clone(), {}, {}, tracker_);
  for (const LinearSlot& slot : source_->linears(0)) {
    const Matrix& weight = before.linear(slot.kind).weight;
    const Matrix& now = rounded.block.linear(slot.kind).weight;
    const QuantizedTensor& q = rounded.quantized.at(slot.weight);
    for (int64_t i = 0; i < weight.size(); ++i) {
      const auto group = static_cast<size_t>(i / weight.cols() * q.groups() + i % weight.cols() / q.group_size);
      // The range may be cut to fewer steps than the largest weight needs: one step at its end.
      ASSERT_LE(std::fabs(now.data()[i] - weight.data()[i]), 1.01F * std::fabs(f16_to_f32(q.scales[group])));
    }
    const LinearRecord& record = rounded.linears[rounded.record_of.at(slot.kind)];
    EXPECT_FALSE(record.output_error);
    EXPECT_FALSE(record.held_back_output_error);
  }
}

// Fused linears are rows of one tensor, and rounded as if they stood alone.
TEST_F(FusedBlockTest, PartsOfATensorAreJoined) {
  const RoundedBlock rounded = round_block(job(), load_block(*source_, 0), block_stats(), {}, tracker_);
  EXPECT_EQ(rounded.linears.size(), 7u);
  EXPECT_EQ(rounded.quantized.size(), 4u);
  for (const LinearSlot& slot : source_->linears(0)) {
    const QuantizedTensor& all = rounded.quantized.at(slot.weight);
    Matrix rows(slot.rows, slot.columns);
    dequantize_rows(all, slot.first_row, slot.rows, rows.data());
    EXPECT_TRUE(same_values(rows, rounded.block.linear(slot.kind).weight));
    validate(all, slot.weight);
  }
}

TEST_F(RoundBlockTest, TheValidationSplitChooses) {
  BlockStats stats = block_stats();
  // The validation split is the whole text once more: feedback is as good there as the statistics say.
  for (size_t i = 0; i < kLinearInputs; ++i) {
    stats.validation[i].in_features = stats.calibration[i].in_features;
    stats.validation[i].gram = stats.calibration[i].gram.clone();
  }
  stats.validation_share = 0.5;
  const RoundedBlock rounded = round_block(job(), load_block(*source_, 0), std::move(stats), {}, tracker_);
  for (const LinearRecord& l : rounded.linears) {
    ASSERT_TRUE(l.chosen) << l.name;
    EXPECT_NE(l.chosen->rounding, "nearest") << l.name;
    EXPECT_GT(l.chosen->nearest.value(), l.chosen->feedback.value()) << l.name;
  }
}

TEST_F(RoundBlockTest, ChoosingGivesTheStatisticsBack) {
  BlockStats stats = block_stats();
  const size_t qkv = static_cast<size_t>(LinearInput::kQkv);
  const Matrix before = stats.calibration[qkv].gram.clone();
  const auto choices = choose_rounding_of(job(), LinearInput::kQkv, load_block(*source_, 0), stats.calibration[qkv],
                                          this->stats(tokens(2, 32, 9))[qkv].gram.clone(), 0.1);
  EXPECT_EQ(choices.size(), 3u);
  const Matrix& after = stats.calibration[qkv].gram;
  for (int64_t i = 0; i < before.rows(); ++i) EXPECT_NEAR(after(i, i), before(i, i), 1e-4 * before(i, i));
}

TEST_F(RoundBlockTest, TriedGridsCostMoreTheFewerBitsTheyHave) {
  GridTrials trials;
  Grid grid = recipe_.grid;
  for (const int bits : {8, 4, 3, kUnquantizedBits}) {
    grid.bits = bits;
    trials[static_cast<size_t>(LinearInput::kDown)].push_back({grid, 0});
  }
  const RoundedBlock with = round_block(job(), load_block(*source_, 0), block_stats(), trials, tracker_);
  const auto& losses = with.trials[static_cast<size_t>(LinearInput::kDown)];
  ASSERT_EQ(losses.size(), 4u);
  EXPECT_GT(losses[0].loss, 0);
  EXPECT_GT(losses[1].loss, 10 * losses[0].loss);
  EXPECT_GT(losses[2].loss, losses[1].loss);
  EXPECT_EQ(losses[3].loss, 0);
  // Trying changes nothing of what is taken.
  const RoundedBlock without = round_block(job(), load_block(*source_, 0), block_stats(), {}, tracker_);
  for (const auto& [name, q] : without.quantized) EXPECT_EQ(with.quantized.at(name).codes, q.codes) << name;
}

TEST_F(RoundBlockTest, TheFactorIsMadeOnceForADamping) {
  const BlockStats stats = block_stats();
  InputFactor factor(recipe_, stats.calibration[0].gram);
  const double first = factor.at(0.01).damping;
  const GptqFactor* kept = &factor.at(0.01);
  EXPECT_EQ(kept, &factor.at(0.01));
  EXPECT_NEAR(factor.at(0.1).damping / first, 10, 1e-6);
}

}  // namespace
}  // namespace metal_marlin

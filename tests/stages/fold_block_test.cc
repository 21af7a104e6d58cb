#include "stages/fold_block.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include <cmath>

#include "model/reference.h"
#include "recipe/tensor_plan.h"
#include "scale/fold.h"
#include "stages/block_fixture.h"
#include "stages/block_probe.h"

namespace metal_marlin {
namespace {

class FoldBlockTest : public BlockFixture {
 protected:
  // The block's output in float64 loops, of one sequence.
  testing::Rows forward(const Block& block, const Matrix& states) const {
    testing::TestModel plain;
    plain.family = source_->family();
    plain.config = source_->config();
    plain.block = block.clone();
    testing::Rows rows;
    for (int64_t r = 0; r < states.rows(); ++r) rows.emplace_back(states.row(r).begin(), states.row(r).end());
    return testing::reference_forward(plain, 0, rows).states;
  }
  BlockProbe probe() const { return take_probe(*stream(tokens(3, 32, 1)), true); }
};

TEST_F(FoldBlockTest, TheBlockComputesTheSameAndItsStatisticsFollow) {
  const Block before = load_block(*source_, 0);
  const BlockStats old = block_stats();
  BlockStats stats = block_stats();
  stats.validation = this->stats(tokens(2, 32, 3));
  const StatsByInput old_validation = this->stats(tokens(2, 32, 3));
  stats.validation_share = 0.125;
  const BlockProbe probe = this->probe();
  const FoldedBlock folded = fold_block(job(), before.clone(), std::move(stats), probe, tracker_);

  ASSERT_EQ(folded.plan.inputs.size(), source_->family().folds.size());
  ASSERT_EQ(folded.folds.size(), folded.plan.inputs.size());
  ASSERT_EQ(folded.scales.size(), folded.plan.inputs.size());
  EXPECT_LT(folded.invariance_error, kInvarianceLimit);
  EXPECT_EQ(folded.stats.validation_share, 0.125);
  const testing::Rows want = forward(before, probe.input);
  const testing::Rows got = forward(folded.block, probe.input);
  for (size_t t = 0; t < want.size(); ++t) {
    for (size_t k = 0; k < want[t].size(); ++k) ASSERT_NEAR(got[t][k], want[t][k], 1e-4);
  }
  bool any = false;
  for (size_t i = 0; i < folded.plan.inputs.size(); ++i) {
    const InputScale& scale = folded.plan.inputs[i];
    EXPECT_EQ(folded.scales[i].tap, input_name(scale.input));
    EXPECT_EQ(folded.scales[i].fold, folded.folds[i].name);
    EXPECT_EQ(folded.scales[i].largest, *std::max_element(scale.scale.begin(), scale.scale.end()));
    const auto input = static_cast<size_t>(scale.input);
    for (const auto& [now, then] :
         {std::pair(&folded.stats.calibration, &old.calibration), std::pair(&folded.stats.held_back, &old.held_back),
          std::pair(&folded.stats.validation, &old_validation)}) {
      const ActivationStats& a = (*then)[input];
      const ActivationStats& b = (*now)[input];
      for (size_t k = 0; k < scale.scale.size(); ++k) {
        const double s = scale.scale[k];
        any = any || s != 1;
        ASSERT_NEAR(b.mean[k] * s, a.mean[k], 1e-5 * a.mean[k]);
        const auto r = static_cast<int64_t>(k);
        const double size = std::sqrt(static_cast<double>(a.gram(r, r)) * a.gram(0, 0));
        ASSERT_NEAR(b.gram(r, 0) * s * scale.scale[0], a.gram(r, 0), 1e-5 * size);
      }
    }
  }
  EXPECT_TRUE(any);
}

TEST_F(FoldBlockTest, NothingChangesWithoutAScaleMethod) {
  options_.method = Method::kGptq;
  plan();
  const Block before = load_block(*source_, 0);
  const FoldedBlock folded = fold_block(job(), before.clone(), block_stats(), probe(), tracker_);
  EXPECT_TRUE(folded.plan.inputs.empty());
  EXPECT_TRUE(folded.folds.empty());
  EXPECT_EQ(folded.invariance_error, 0);
  for (int k = 0; k < kLinears; ++k) {
    const auto kind = static_cast<LinearKind>(k);
    EXPECT_TRUE(same_values(folded.block.linear(kind).weight, before.linear(kind).weight));
  }
}

TEST_F(FoldBlockTest, AnInputIsLeftAloneWhereOneOfItsLinearsStays) {
  LayerTensors tensors = layers_[0];
  std::erase_if(tensors.quantized, [](const QuantizedWeight& w) { return w.name.find("k_proj") != std::string::npos; });
  EXPECT_EQ(quantized_kinds(tensors).count(LinearKind::kK), 0u);
  EXPECT_EQ(quantized_kinds(tensors).size(), 6u);
  const BlockJob job{*source_, recipe_, tensors, 0};
  const FoldedBlock folded = fold_block(job, load_block(*source_, 0), block_stats(), probe(), tracker_);
  EXPECT_FALSE(folded.plan.inputs.empty());
  for (const InputScale& scale : folded.plan.inputs) EXPECT_NE(scale.input, LinearInput::kQkv);
}

// The published search runs the block with rounded weights, which must not stay in it.
TEST_F(FoldBlockTest, ASearchThroughTheBlockLeavesItAsItWas) {
  options_.awq_loss = ScaleLoss::kBlock;
  plan();
  ASSERT_EQ(recipe_.scale_loss, ScaleLoss::kBlock);
  const Block before = load_block(*source_, 0);
  Block block = before.clone();
  const BlockStats stats = block_stats();
  const Fold& fold = source_->family().folds.front();
  const InputScale scale = find_scale(job(), fold, block, stats.calibration[static_cast<size_t>(fold.input)], probe());
  EXPECT_EQ(scale.fold, fold.name);
  EXPECT_LE(scale.loss_after, scale.loss_before);
  for (int k = 0; k < kLinears; ++k) {
    const auto kind = static_cast<LinearKind>(k);
    EXPECT_TRUE(same_values(block.linear(kind).weight, before.linear(kind).weight));
  }
}

// A probe of other tokens is one that the fold does not compute: the check must say so.
TEST_F(FoldBlockTest, TheCheckComparesWithWhatTheProbeSays) {
  BlockProbe wrong = probe();
  wrong.output = wrong.input.clone();
  try {
    fold_block(job(), load_block(*source_, 0), block_stats(), wrong, tracker_);
    ADD_FAILURE();
  } catch (const NumericError& e) {
    EXPECT_NE(std::string(e.what()).find("layer 0: folding changed what the block computes"), std::string::npos);
  }
}

TEST_F(FoldBlockTest, ProbesAreTheFirstRowsAndTheFirstWholeSequences) {
  const auto lengths = [&](std::vector<int64_t> all) {
    Stream states(*source_, all);
    Matrix m(states.rows(), states.hidden());
    for (int64_t r = 0; r < m.rows(); ++r) m(r, 0) = static_cast<float>(r);
    states.write_rows(0, m.rows(), m.data());
    const BlockProbe probe = take_probe(states, true);
    int64_t sum = 0;
    for (const int64_t n : probe.replay_lengths) sum += n;
    EXPECT_EQ(probe.replay_states.rows(), sum);
    EXPECT_EQ(probe.replay_states(sum - 1, 0), static_cast<float>(sum - 1));
    EXPECT_EQ(probe.input.rows(), std::min<int64_t>(all.front(), kInvarianceTokens));
    EXPECT_TRUE(probe.output.empty());
    return probe.replay_lengths;
  };
  using Lengths = std::vector<int64_t>;
  EXPECT_EQ(lengths({512, 512, 512, 512, 512}), (Lengths{512, 512, 512, 512}));
  EXPECT_EQ(lengths({3000, 10}), (Lengths{3000}));
  EXPECT_EQ(lengths({100, 30}), (Lengths{100, 30}));
  // A sequence that does not fit ends the list, also where a shorter one follows in another batch.
  EXPECT_EQ(lengths({900, 3000, 500}), (Lengths{900}));
  EXPECT_TRUE(take_probe(*stream(tokens(2, 5, 1)), false).replay_states.empty());
  EXPECT_EQ(probe_of_tokens(*source_).input.rows(), kInvarianceTokens);
}

}  // namespace
}  // namespace metal_marlin

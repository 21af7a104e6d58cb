#include "stages/changed_tensors.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include <cmath>

#include "core/half.h"
#include "scale/fold.h"
#include "stages/block_fixture.h"
#include "stages/block_probe.h"
#include "stages/finished_block.h"
#include "stages/quantize_block.h"

namespace metal_marlin {
namespace {

class ChangedTensorsTest : public BlockFixture {
 protected:
  std::vector<Fold> folds(FoldProducer producer) const {
    for (const Fold& fold : source_->family().folds) {
      if (fold.producer == producer) return {fold};
    }
    return {};
  }
};

TEST_F(ChangedTensorsTest, ANormIsRoundedInTheBlockAndStored) {
  Block block = load_block(*source_, 0);
  std::vector<float>& norm = block.norm(NormKind::kInput);
  norm[0] = 1.0F / 3;
  norm[1] = 1e-9F;  // becomes 0, which the source's was not
  const ChangedTensors changed = changed_tensors(*source_, 0, folds(FoldProducer::kInputNorm), {}, block);
  ASSERT_EQ(changed.tensors.size(), 1u);
  const OwnedTensor& t = changed.tensors[0];
  EXPECT_EQ(t.name, source_->norm_name(0, NormKind::kInput));
  EXPECT_EQ(changed.names(), (std::vector<std::string>{t.name}));
  EXPECT_EQ(t.dtype, DType::kF16);
  EXPECT_EQ(t.shape, (std::vector<int64_t>{source_->config().hidden_size}));
  EXPECT_NEAR(norm[0], 1.0 / 3, 1.0 / 4096);
  EXPECT_NE(norm[0], 1.0F / 3);
  for (size_t k = 0; k < norm.size(); ++k)
    EXPECT_EQ(f16_to_f32(reinterpret_cast<const uint16_t*>(t.bytes.data())[k]), norm[k]);
  ASSERT_EQ(changed.flushed.size(), 1u);
  EXPECT_EQ(changed.flushed[0].flushed, 1);
  EXPECT_EQ(changed.flushed[0].of, source_->config().hidden_size);
}

TEST_F(ChangedTensorsTest, AValueBeyondF16IsNamed) {
  Block block = load_block(*source_, 0);
  block.norm(NormKind::kPreFeedForward)[3] = 70000;
  try {
    changed_tensors(*source_, 0, folds(FoldProducer::kPreFeedForwardNorm), {}, block);
    ADD_FAILURE();
  } catch (const NumericError& e) {
    EXPECT_EQ(std::string(e.what()),
              source_->norm_name(0, NormKind::kPreFeedForward) + ": 70000 after folding exceeds the range of f16");
  }
}

// v keeps its 16 bits: then its weight is stored; and up, which is quantized, is not.
TEST_F(ChangedTensorsTest, AProducerIsStoredWhereItIsNotQuantized) {
  Block block = load_block(*source_, 0);
  block.linear(LinearKind::kV).weight(0, 0) = 1.0F / 3;
  const ChangedTensors v = changed_tensors(*source_, 0, folds(FoldProducer::kVRows), {}, block);
  ASSERT_EQ(v.tensors.size(), 1u);
  EXPECT_NE(v.tensors[0].name.find("v_proj.weight"), std::string::npos);
  EXPECT_NE(block.linear(LinearKind::kV).weight(0, 0), 1.0F / 3);
  EXPECT_TRUE(changed_tensors(*source_, 0, folds(FoldProducer::kUpRows), {LinearKind::kUp}, block).tensors.empty());
}

class ChangedBiasTest : public BlockFixture {
 protected:
  ChangedBiasTest() : BlockFixture("qwen2") {}
};

TEST_F(ChangedBiasTest, TheBiasOfAQuantizedProducer) {
  Block block = load_block(*source_, 0);
  Fold fold{LinearInput::kO, FoldProducer::kVRows, "v -> o"};
  const ChangedTensors changed =
      changed_tensors(*source_, 0, std::span(&fold, 1), {LinearKind::kV, LinearKind::kO}, block);
  ASSERT_EQ(changed.tensors.size(), 1u);
  EXPECT_NE(changed.tensors[0].name.find("v_proj.bias"), std::string::npos);
}

// What the journal would hold puts a fresh block into the state that the quantized one has.
TEST_F(ChangedTensorsTest, AFinishedBlockIsTheResult) {
  const BlockResult result =
      quantize_block(job(), load_block(*source_, 0), block_stats(), probe_of_tokens(*source_), tracker_);
  EXPECT_EQ(result.record.changed.size(), result.finished.changed.size());
  EXPECT_FALSE(result.record.scales.empty());
  Block fresh = load_block(*source_, 0);
  apply_finished(*source_, 0, result.finished, fresh);
  for (int k = 0; k < kLinears; ++k) {
    const auto kind = static_cast<LinearKind>(k);
    EXPECT_TRUE(same_values(fresh.linear(kind).weight, result.block.linear(kind).weight)) << k;
  }
  for (int k = 0; k < kNorms; ++k)
    EXPECT_EQ(fresh.norm(static_cast<NormKind>(k)), result.block.norm(static_cast<NormKind>(k))) << k;
}

TEST_F(ChangedTensorsTest, WeightErrorsDoNotSeeFoldedScales) {
  const std::set<LinearKind> all = quantized_kinds(layers_[0]);
  Block block = load_block(*source_, 0);
  for (const auto& [kind, error] : weight_errors(*source_, 0, block, all)) EXPECT_EQ(error, 0);
  // Powers of two are folded without any rounding.
  for (const Fold& fold : source_->family().folds) {
    const Matrix& weight = block.linear(linears_of(fold.input).front()).weight;
    std::vector<float> scale(static_cast<size_t>(weight.cols()), 2.0F);
    apply_fold(source_->family(), source_->config(), fold, scale, block);
  }
  for (const auto& [kind, error] : weight_errors(*source_, 0, block, all)) EXPECT_LT(error, 1e-6);
  // A hundredth of every weight of gate.
  for (float& v : block.linear(LinearKind::kGate).weight.values()) v *= 1.01F;
  const auto errors = weight_errors(*source_, 0, block, {LinearKind::kGate, LinearKind::kQ});
  EXPECT_EQ(errors.size(), 2u);
  EXPECT_NEAR(errors.at(LinearKind::kGate), 0.01, 1e-5);
  EXPECT_LT(errors.at(LinearKind::kQ), 1e-6);
}

}  // namespace
}  // namespace metal_marlin

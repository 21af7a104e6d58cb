#include "scale/fold.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cmath>

#include "checkpoint/model_source.h"
#include "core/half.h"
#include "core/random.h"
#include "model/model.h"

namespace metal_marlin {
namespace {

class FoldTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    source_ = ModelSource::open(std::string(TEST_DATA) + "/models/" + GetParam());
    input_ = Matrix(16, source_->config().hidden_size);
    Random random(1);
    for (float& x : input_.values()) x = static_cast<float>(random.normal());
  }
  // Scales between 1/4 and 4, equal for the query heads that share a v channel.
  std::vector<float> random_scale(const Fold& fold, Random& random) const {
    const ModelConfig& c = source_->config();
    int64_t n = c.hidden_size;
    if (fold.producer == FoldProducer::kUpRows) n = c.intermediate_size;
    if (fold.producer == FoldProducer::kVRows) n = c.num_key_value_heads * c.head_dim;
    std::vector<float> s(static_cast<size_t>(n));
    for (float& v : s) v = static_cast<float>(std::exp2(4 * random.uniform() - 2));
    if (fold.producer != FoldProducer::kVRows) return s;
    std::vector<float> wide;
    for (int64_t h = 0; h < c.num_attention_heads; ++h) {
      const int64_t kv = h / (c.num_attention_heads / c.num_key_value_heads);
      wide.insert(wide.end(), s.begin() + kv * c.head_dim, s.begin() + (kv + 1) * c.head_dim);
    }
    return wide;
  }
  Matrix expected(int64_t layer) const {
    return run_block_once(source_->family(), source_->config(), layer, load_block(*source_, layer), input_);
  }

  std::unique_ptr<ModelSource> source_;
  Matrix input_;
};

TEST_P(FoldTest, EveryFoldLeavesTheBlockAsItWas) {
  Random random(2);
  for (int64_t layer = 0; layer < source_->config().num_hidden_layers; ++layer) {
    Block block = load_block(*source_, layer);
    ScalePlan plan;
    for (const Fold& fold : source_->family().folds) {
      InputScale input;
      input.input = fold.input;
      input.scale = random_scale(fold, random);
      apply_fold(source_->family(), source_->config(), fold, input.scale, block);
      plan.inputs.push_back(input);
    }
    ASSERT_FALSE(plan.inputs.empty());
    const double error = check_invariance(source_->family(), source_->config(), layer, block, plan, input_,
                                          expected(layer), [&] { return load_block(*source_, layer); });
    EXPECT_LT(error, 1e-5);  // a few roundings of f32
  }
}

TEST_P(FoldTest, FoldedNormsAreExactInF16) {
  Random random(3);
  Block block = load_block(*source_, 0);
  for (const Fold& fold : source_->family().folds) {
    std::vector<float> scale = random_scale(fold, random);
    apply_fold(source_->family(), source_->config(), fold, scale, block);
    if (fold.producer == FoldProducer::kPreFeedForwardNorm) {
      for (const float w : block.norm(NormKind::kPreFeedForward)) EXPECT_EQ(w, round_to_f16(w));
    }
  }
}

// The mistake of a fold that takes an offset norm for a plain one (or the other way round) is caught and named.
TEST_P(FoldTest, ABrokenFoldIsCaught) {
  Family wrong = source_->family();
  wrong.offset_norm = !wrong.offset_norm;
  Random random(4);
  for (const Fold& fold : source_->family().folds) {
    if (fold.producer != FoldProducer::kPreFeedForwardNorm) continue;
    Block block = load_block(*source_, 0);
    ScalePlan plan;
    InputScale input;
    input.input = fold.input;
    input.fold = fold.name;
    input.scale = random_scale(fold, random);
    apply_fold(wrong, source_->config(), fold, input.scale, block);
    plan.inputs.push_back(input);
    try {
      check_invariance(source_->family(), source_->config(), 0, block, plan, input_, expected(0),
                       [&] { return load_block(*source_, 0); });
      FAIL() << "the broken fold went unnoticed";
    } catch (const NumericError& e) {
      EXPECT_NE(std::string(e.what()).find("layer 0"), std::string::npos) << e.what();
      EXPECT_NE(std::string(e.what()).find("relative difference"), std::string::npos) << e.what();
    }
  }
}

TEST_P(FoldTest, RefusesScalesThatCannotBeFolded) {
  const ModelConfig& c = source_->config();
  Random random(5);
  for (const Fold& fold : source_->family().folds) {
    Block block = load_block(*source_, 0);
    std::vector<float> scale = random_scale(fold, random);
    scale.pop_back();
    EXPECT_THROW(apply_fold(source_->family(), c, fold, scale, block), ArgumentError);
    scale = random_scale(fold, random);
    scale[0] = 0;
    EXPECT_THROW(apply_fold(source_->family(), c, fold, scale, block), ArgumentError);
    scale[0] = std::nanf("");
    EXPECT_THROW(apply_fold(source_->family(), c, fold, scale, block), ArgumentError);
    if (fold.producer == FoldProducer::kVRows && c.num_attention_heads > c.num_key_value_heads) {
      scale = random_scale(fold, random);
      scale[0] *= 2;  // head 0 differs from head 1, which shares its v channel
      EXPECT_THROW(apply_fold(source_->family(), c, fold, scale, block), ArgumentError);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Families, FoldTest,
                         testing::Values("llama", "llama-bias", "mistral", "qwen2", "qwen3", "gemma2", "gemma3",
                                         "phi3"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace metal_marlin

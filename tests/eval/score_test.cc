#include "eval/score.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include "checkpoint/model_source.h"
#include "eval/golden_scores.h"
#include "formats/safetensors.h"

namespace metal_marlin {
namespace {

constexpr int64_t kChunks = 2;
constexpr int64_t kLength = 24;
constexpr int64_t kVocab = 96;
constexpr double kTolerance = 1e-4;  // the golden logits are float32 of another order of sums

// States after the last block and the logits that transformers computes of them, of a tiny model.
class ScoreTest : public testing::TestWithParam<const char*> {
 protected:
  ScoreTest()
      : folder_(std::string(TEST_DATA) + "/models/" + GetParam()),
        source_(ModelSource::open(folder_)),
        golden_(folder_ + "/golden.safetensors"),
        head_(*source_) {
    ids_ = reinterpret_cast<const int32_t*>(golden_.get("input_ids").bytes.data());
    for (int64_t c = 0; c < kChunks; ++c) chunks_.emplace_back(ids_ + c * kLength, ids_ + (c + 1) * kLength);
  }
  const float* floats(const std::string& name) const {
    return reinterpret_cast<const float*>(golden_.get(name).bytes.data());
  }
  // The stream after `layer` blocks, as transformers computes it.
  std::unique_ptr<Stream> states(int64_t layer) const {
    auto stream = std::make_unique<Stream>(*source_, std::vector<int64_t>(kChunks, kLength));
    stream->write_rows(0, stream->rows(), floats("hidden." + std::to_string(layer)));
    return stream;
  }

  std::string folder_;
  std::unique_ptr<ModelSource> source_;
  SafetensorsFile golden_;
  Head head_;
  const int32_t* ids_ = nullptr;
  std::vector<std::vector<int32_t>> chunks_;
};

TEST_P(ScoreTest, PerplexityIsThatOfTransformersLogits) {
  const auto want = plain::scores_of(floats("logits"), floats("logits"), ids_, kChunks, kLength, kVocab);
  Metrics metrics;
  std::vector<std::pair<int64_t, int64_t>> progress;
  const auto last = states(source_->config().num_hidden_layers);
  score({head_, *last}, std::nullopt, chunks_, metrics,
        [&](int64_t done, int64_t total) { progress.emplace_back(done, total); });
  const EvaluationRecord got = metrics.result();
  EXPECT_EQ(got.positions, kChunks * (kLength - 1));
  EXPECT_FALSE(got.perplexity.reference || got.kl_divergence.mean || got.kl_divergence.standard_error ||
               got.kl_divergence.p99 || got.top1_agreement);
  EXPECT_NEAR(got.perplexity.quantized.value() / want.perplexity, 1, kTolerance);
  EXPECT_EQ(progress, (std::vector<std::pair<int64_t, int64_t>>{{0, 2}, {1, 2}}));
}

// The states of one block earlier as a model that is worse than its reference.
TEST_P(ScoreTest, DivergenceIsThatOfTheReferencesLogits) {
  const int64_t layers = source_->config().num_hidden_layers;
  const auto early = states(layers - 1);
  const auto last = states(layers);
  Matrix early_logits(early->rows(), kVocab);
  head_.logits(floats("hidden." + std::to_string(layers - 1)), early->rows(), early_logits.data());
  const auto want = plain::scores_of(early_logits.data(), floats("logits"), ids_, kChunks, kLength, kVocab);
  Metrics metrics;
  score({head_, *early}, FinalStates{head_, *last}, chunks_, metrics);
  const EvaluationRecord got = metrics.result();
  EXPECT_NEAR(got.perplexity.quantized.value() / want.perplexity, 1, kTolerance);
  EXPECT_NEAR(got.perplexity.reference.value() / want.reference_perplexity, 1, kTolerance);
  EXPECT_NEAR(got.kl_divergence.mean.value() / want.kl_mean, 1, kTolerance);
  EXPECT_NEAR(got.kl_divergence.standard_error.value() / want.kl_standard_error, 1, kTolerance);
  EXPECT_NEAR(got.kl_divergence.p99.value() / want.kl_p99, 1, kTolerance);
  EXPECT_DOUBLE_EQ(got.top1_agreement.value(), want.top1);
}

TEST_P(ScoreTest, RefusesStatesOfOtherChunks) {
  const auto last = states(source_->config().num_hidden_layers);
  chunks_.back().pop_back();
  Metrics metrics;
  EXPECT_THROW(score({head_, *last}, std::nullopt, chunks_, metrics), ArgumentError);
}

INSTANTIATE_TEST_SUITE_P(TinyModels, ScoreTest, testing::Values("llama", "gemma2", "qwen2", "phi3"),
                         [](const auto& model) { return std::string(model.param); });

TEST(MeasureRows, GoesThroughRangesInBatches) {
  const RowRange ranges[] = {{3, 5}, {8, 0}, {9, 2}};
  std::vector<std::vector<int64_t>> seen;
  const RowMeasure measure{
      [&](size_t range) { seen.push_back({-1, static_cast<int64_t>(range)}); },
      [&](size_t range, int64_t first, int64_t count) { seen.push_back({static_cast<int64_t>(range), first, count}); }};
  measure_rows(ranges, 2, measure);
  EXPECT_EQ(seen,
            (std::vector<std::vector<int64_t>>{{-1, 0}, {0, 3, 2}, {0, 5, 2}, {0, 7, 1}, {-1, 1}, {-1, 2}, {2, 9, 2}}));
}

}  // namespace
}  // namespace metal_marlin

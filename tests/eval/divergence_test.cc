// KL divergences of the lanes of a stream against sums over the whole vocabulary in float64.
#include "eval/divergence.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include <cmath>
#include <limits>

#include "checkpoint/model_source.h"
#include "core/random.h"
#include "eval/golden_scores.h"

namespace metal_marlin {
namespace {

// Tokens without weight are left out, and the rest is scaled up.
constexpr double kLeftOut = 0.02;

double plain_kl(const float* reference, const float* other, int64_t vocab) {
  const auto p = plain::log_softmax(reference, vocab);
  const auto q = plain::log_softmax(other, vocab);
  double sum = 0;
  for (size_t i = 0; i < p.size(); ++i) sum += std::exp(p[i]) * (p[i] - q[i]);
  return sum;
}

TEST(Divergence, EqualsTheSumOverTheVocabulary) {
  constexpr int64_t kVocab = 300;
  Random random(8);
  Matrix logits(2, kVocab);
  for (const double size : {2.0, 0.1, 1e-3}) {
    for (int64_t v = 0; v < kVocab; ++v) {
      logits(0, v) = static_cast<float>(3 * random.normal());
      logits(1, v) = logits(0, v) + static_cast<float>(size * random.normal());
    }
    Divergence divergence;
    divergence.set_reference(logits.row(0).data(), kVocab);
    const double want = plain_kl(logits.row(0).data(), logits.row(1).data(), kVocab);
    EXPECT_NEAR(divergence(logits.row(1).data()) / want, 1, 2 * kLeftOut) << size;
    EXPECT_EQ(divergence(logits.row(0).data()), 0);
  }
}

TEST(Divergence, LargeAndDamagedLogits) {
  const float reference[2] = {0, 0};
  Divergence divergence;
  divergence.set_reference(reference, 2);
  const float far[2] = {2000, -2000};  // KL = log(1/2) - (1/2)(0 - 4000) = 2000 - log 2
  EXPECT_NEAR(divergence(far), 2000 - std::log(2.0), 1e-6);
  const float damaged[2] = {0, std::numeric_limits<float>::quiet_NaN()};
  EXPECT_FALSE(std::isfinite(divergence(damaged)));
}

class LaneDivergenceTest : public testing::Test {
 protected:
  static constexpr int64_t kRows = 150;  // more than two tiles
  LaneDivergenceTest()
      : source_(ModelSource::open(std::string(TEST_DATA) + "/models/llama")), head_(*source_), stream_(make()) {}
  Stream make() const {
    StreamOptions o;
    o.lanes = 3;
    return Stream(*source_, {100, 50}, o);
  }
  void fill() {
    Random random(5);
    Matrix m(kRows, stream_.hidden());
    for (int64_t i = 0; i < m.size(); ++i) m.data()[i] = static_cast<float>(random.normal());
    for (int64_t lane = 0; lane < 3; ++lane) {
      stream_.write_rows(0, kRows, m.data(), lane);
      for (int64_t i = 0; i < m.size(); ++i) m.data()[i] += static_cast<float>(0.1 * random.normal());
    }
  }
  Matrix logits(int64_t lane) const {
    Matrix states(kRows, stream_.hidden());
    stream_.read_rows(0, kRows, states.data(), lane);
    Matrix out(kRows, head_.vocab_size());
    head_.logits(states.data(), kRows, out.data());
    return out;
  }

  std::unique_ptr<ModelSource> source_;
  Head head_;
  Stream stream_;
};

TEST_F(LaneDivergenceTest, MeansOverAllRows) {
  fill();
  std::vector<int64_t> progress;
  const auto got = lane_divergences(
      {head_, stream_}, 3, [](int64_t, int64_t) { FAIL(); },
      [&](int64_t done, int64_t total) {
        progress.push_back(done);
        EXPECT_EQ(total, 3 * kRows);
      });
  ASSERT_EQ(got.size(), 3u);
  EXPECT_EQ(got[0].mean, 0);
  const Matrix reference = logits(0);
  for (int64_t lane = 1; lane < 3; ++lane) {
    const Matrix other = logits(lane);
    double mean = 0;
    double square = 0;
    for (int64_t r = 0; r < kRows; ++r) {
      const double kl = plain_kl(reference.row(r).data(), other.row(r).data(), head_.vocab_size());
      mean += kl / kRows;
      square += kl * kl / kRows;
    }
    EXPECT_NEAR(got[static_cast<size_t>(lane)].mean / mean, 1, kLeftOut) << lane;
    EXPECT_NEAR(got[static_cast<size_t>(lane)].mean_square / square, 1, 2 * kLeftOut) << lane;
  }
  EXPECT_EQ(progress.size(), 9u);  // three tiles of three lanes
  EXPECT_TRUE(std::is_sorted(progress.begin(), progress.end()));
}

TEST_F(LaneDivergenceTest, TellsWhereAValueIsNotFinite) {
  fill();
  const std::vector<float> damaged(static_cast<size_t>(stream_.hidden()), std::numeric_limits<float>::quiet_NaN());
  stream_.write_rows(70, 1, damaged.data(), 2);
  try {
    lane_divergences({head_, stream_}, 3, [](int64_t lane, int64_t row) {
      throw NumericError(std::to_string(lane) + " " + std::to_string(row));
    });
    ADD_FAILURE();
  } catch (const NumericError& e) {
    EXPECT_EQ(std::string(e.what()), "2 70");
  }
}

}  // namespace
}  // namespace metal_marlin

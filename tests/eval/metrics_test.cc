#include "eval/metrics.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "core/random.h"

namespace metal_marlin {
namespace {

struct Reference {
  double nll = 0;
  double reference_nll = 0;
  std::vector<double> kl;
  int64_t same = 0;
};

std::vector<double> log_softmax(const float* x, int64_t n) {
  const double top = *std::max_element(x, x + n);
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += std::exp(x[i] - top);
  std::vector<double> out;
  for (int64_t i = 0; i < n; ++i) out.push_back(x[i] - top - std::log(sum));
  return out;
}

TEST(Metrics, EqualsThePlainFormulasInFloat64) {
  constexpr int64_t kRows = 300;
  constexpr int64_t kVocab = 1003;  // no multiple of a vector
  Random random(7);
  std::vector<float> q(kRows * kVocab);
  std::vector<float> p(kRows * kVocab);
  std::vector<int32_t> targets;
  for (size_t i = 0; i < q.size(); ++i) {
    p[i] = static_cast<float>(8 * random.normal());
    q[i] = p[i] + static_cast<float>(random.normal());
  }
  Reference want;
  for (int64_t r = 0; r < kRows; ++r) {
    targets.push_back(static_cast<int32_t>(random.below(kVocab)));
    const auto lp = log_softmax(&p[static_cast<size_t>(r * kVocab)], kVocab);
    const auto lq = log_softmax(&q[static_cast<size_t>(r * kVocab)], kVocab);
    double kl = 0;
    for (size_t i = 0; i < lp.size(); ++i) kl += std::exp(lp[i]) * (lp[i] - lq[i]);
    want.kl.push_back(kl);
    want.nll -= lq[static_cast<size_t>(targets.back())];
    want.reference_nll -= lp[static_cast<size_t>(targets.back())];
    want.same +=
        std::max_element(lp.begin(), lp.end()) - lp.begin() == std::max_element(lq.begin(), lq.end()) - lq.begin();
  }
  Metrics metrics;
  metrics.add(q.data(), p.data(), targets.data(), 100, kVocab);
  metrics.add(q.data() + 100 * kVocab, p.data() + 100 * kVocab, targets.data() + 100, 200, kVocab);
  const EvaluationRecord e = metrics.result();
  EXPECT_EQ(e.positions, kRows);
  EXPECT_NEAR(e.perplexity.quantized.value() / std::exp(want.nll / kRows), 1, 1e-6);  // exp in f32 lanes, sums in f64
  EXPECT_NEAR(e.perplexity.reference.value() / std::exp(want.reference_nll / kRows), 1, 1e-6);
  double mean = 0;
  for (const double k : want.kl) mean += k / kRows;
  double variance = 0;
  for (const double k : want.kl) variance += (k - mean) * (k - mean) / (kRows - 1);
  EXPECT_NEAR(e.kl_divergence.mean.value(), mean, 1e-5 * mean);
  EXPECT_NEAR(e.kl_divergence.standard_error.value(), std::sqrt(variance / kRows), 1e-5 * mean);
  std::sort(want.kl.begin(), want.kl.end());
  EXPECT_NEAR(e.kl_divergence.p99.value(), want.kl[296], 1e-5);  // rank floor(0.99 * 300) = 297
  EXPECT_DOUBLE_EQ(e.top1_agreement.value(), static_cast<double>(want.same) / kRows);
}

TEST(Metrics, AModelAgainstItselfHasNoDivergence) {
  std::vector<float> x = {1, 2, 3, -50, 80, 0.5F};
  const int32_t target = 4;
  Metrics metrics;
  metrics.add(x.data(), x.data(), &target, 1, 6);
  const EvaluationRecord e = metrics.result();
  EXPECT_NEAR(e.kl_divergence.mean.value(), 0, 1e-12);
  EXPECT_EQ(e.top1_agreement.value(), 1);
  EXPECT_NEAR(e.perplexity.quantized.value(), 1, 1e-6);
}

TEST(Metrics, WithoutAReferenceOnlyPerplexity) {
  const std::vector<float> x(10, 0.0F);
  const int32_t target = 3;
  Metrics metrics;
  metrics.add(x.data(), nullptr, &target, 1, 10);
  const EvaluationRecord e = metrics.result();
  EXPECT_FALSE(e.perplexity.reference || e.kl_divergence.mean || e.kl_divergence.standard_error ||
               e.kl_divergence.p99 || e.top1_agreement);
  EXPECT_NEAR(e.perplexity.quantized.value(), 10, 1e-5);
}

std::string refusal(Metrics& metrics, const std::vector<float>& logits, const float* reference,
                    const std::vector<int32_t>& targets, int64_t vocab) {
  try {
    metrics.add(logits.data(), reference, targets.data(), static_cast<int64_t>(targets.size()), vocab);
    metrics.result();
  } catch (const NumericError& e) {
    return e.what();
  }
  return "taken";
}

// Wherever in a row it stands: a kernel may drop a NaN where it looks for the largest value.
TEST(Metrics, ValuesThatAreNotFiniteAreNamedWithTheirPlace) {
  constexpr int64_t kVocab = 37;
  constexpr float kInf = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const float bad : {nan, -nan, kInf}) {
    for (int64_t column = 0; column < kVocab; ++column) {
      std::vector<float> logits(4 * kVocab, 0.5F);
      logits[static_cast<size_t>(2 * kVocab + column)] = bad;
      const std::vector<float> good(4 * kVocab, 0.25F);
      const std::vector<int32_t> targets = {1, 2, 3, 4};
      Metrics alone("MODEL");
      alone.begin_chunk();
      EXPECT_EQ(refusal(alone, good, nullptr, targets, kVocab), "taken");
      alone.begin_chunk();
      const std::string text = refusal(alone, logits, nullptr, targets, kVocab);
      EXPECT_NE(text.find("MODEL: the logits for token 4 of chunk 2 are NaN or infinite"), std::string::npos) << text;
      Metrics both("MODEL", "REF");
      both.begin_chunk();
      const std::string other = refusal(both, good, logits.data(), targets, kVocab);
      EXPECT_NE(other.find("REF: the logits for token 4 of chunk 1"), std::string::npos) << column << other;
      const std::string quantized = refusal(both, logits, good.data(), targets, kVocab);
      EXPECT_NE(quantized.find("MODEL: the logits for token"), std::string::npos) << column << quantized;
    }
  }
}

TEST(Metrics, APerplexityBeyondFloat64IsAnErrorThatNamesTheWorstToken) {
  constexpr int64_t kVocab = 8;
  std::vector<float> logits(3 * kVocab, 0.0F);
  for (int64_t row = 0; row < 3; ++row) logits[static_cast<size_t>(row * kVocab)] = row == 1 ? 9000.0F : 1000.0F;
  const std::vector<float> good(3 * kVocab, 0.0F);
  Metrics metrics("MODEL", "REF");
  metrics.begin_chunk();
  const std::string text = refusal(metrics, logits, good.data(), {1, 1, 1}, kVocab);
  EXPECT_NE(text.find("MODEL: the perplexity is too large for a number"), std::string::npos) << text;
  EXPECT_NE(text.find("9000 for token 3 of chunk 1"), std::string::npos) << text;
  Metrics swapped("MODEL", "REF");
  swapped.begin_chunk();
  EXPECT_NE(refusal(swapped, good, logits.data(), {1, 1, 1}, kVocab).find("REF: the perplexity"), std::string::npos);
}

}  // namespace
}  // namespace metal_marlin

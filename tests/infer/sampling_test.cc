#include "infer/sampling.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>

#include "options/ignored.h"
#include "options/tables.h"

namespace metal_marlin {
namespace {

// The samplers one after another on all tokens, in float64, straight from their definitions.
std::map<int32_t, double> brute_force(std::vector<double> logits, const std::vector<int32_t>& history,
                                      const SamplingOptions& o) {
  const size_t n = logits.size();
  if (o.repeat_penalty != 1.0 && o.repeat_last_n != 0) {
    const size_t last =
        o.repeat_last_n < 0 ? history.size() : std::min<size_t>(history.size(), static_cast<size_t>(o.repeat_last_n));
    std::vector<bool> seen(n);
    for (size_t i = history.size() - last; i < history.size(); ++i) seen[static_cast<size_t>(history[i])] = true;
    for (size_t i = 0; i < n; ++i) {
      if (seen[i]) logits[i] = logits[i] > 0 ? logits[i] / o.repeat_penalty : logits[i] * o.repeat_penalty;
    }
  }
  std::vector<int32_t> order(n);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
  });
  const auto logit = [&](int32_t t) { return logits[static_cast<size_t>(t)]; };
  const double top = logit(order[0]);
  if (o.temp == 0) return {{order[0], 1.0}};
  if (o.top_k > 0 && static_cast<size_t>(o.top_k) < order.size()) order.resize(static_cast<size_t>(o.top_k));
  const auto probability = [&](int32_t t) {
    double sum = 0;
    for (const int32_t other : order) sum += std::exp(logit(other) - top);
    return std::exp(logit(t) - top) / sum;
  };
  if (o.top_p < 1) {
    double sum = 0;
    size_t keep = 0;
    std::vector<double> p;
    for (const int32_t t : order) p.push_back(probability(t));
    while (keep < order.size() && sum < o.top_p) sum += p[keep++];
    order.resize(keep);
  }
  if (o.min_p > 0) {
    std::vector<int32_t> kept;
    for (const int32_t t : order) {
      if (std::exp(logit(t) - top) >= o.min_p) kept.push_back(t);
    }
    order = kept;
  }
  std::map<int32_t, double> result;
  double sum = 0;
  for (const int32_t t : order) sum += std::exp((logit(t) - top) / o.temp);
  for (const int32_t t : order) result[t] = std::exp((logit(t) - top) / o.temp) / sum;
  return result;
}

// float32 logits against float64 arithmetic on the same logits; only the penalty rounds in float32.
constexpr double kProbabilityTolerance = 1e-6;

TEST(Sampling, DistributionEqualsBruteForce) {
  Random random(7);
  for (int round = 0; round < 200; ++round) {
    const size_t vocab = 2 + random.below(60);
    std::vector<float> logits(vocab);
    for (float& l : logits) l = static_cast<float>(4 * random.normal());
    std::vector<int32_t> history(random.below(20));
    for (int32_t& t : history) t = static_cast<int32_t>(random.below(vocab));
    SamplingOptions o;
    o.temp = 0.25 + 2 * random.uniform();
    o.top_k = random.below(2) != 0 ? 0 : static_cast<int64_t>(1 + random.below(vocab + 3));
    o.top_p = random.below(2) != 0 ? 1.0 : 0.05 + 0.94 * random.uniform();
    o.min_p = random.below(2) != 0 ? 0.0 : 0.5 * random.uniform();
    o.repeat_penalty = random.below(2) != 0 ? 1.0 : 0.7 + random.uniform();
    o.repeat_last_n = static_cast<int64_t>(random.below(12)) - 1;
    const auto expected = brute_force({logits.begin(), logits.end()}, history, o);
    Sampler sampler(o);
    const auto actual = sampler.distribution(logits, history);
    ASSERT_EQ(actual.size(), expected.size()) << "round " << round;
    double previous = 2;
    for (const TokenProbability& c : actual) {
      ASSERT_TRUE(expected.count(c.token)) << "round " << round;
      EXPECT_NEAR(c.probability, expected.at(c.token), kProbabilityTolerance);
      EXPECT_LE(c.probability, previous);
      previous = c.probability;
    }
  }
}

TEST(Sampling, DrawsFollowTheDistribution) {
  const std::vector<float> logits = {0.0f, std::log(2.0f), std::log(4.0f), std::log(1.0f), -50.0f};
  Sampler sampler({.temp = 1, .top_k = 0, .top_p = 1, .min_p = 0});
  Random random(3);
  std::vector<int> count(5);
  constexpr int kDraws = 80000;
  for (int i = 0; i < kDraws; ++i) ++count[static_cast<size_t>(sampler.sample(logits, {}, random))];
  const double expected[] = {0.125, 0.25, 0.5, 0.125, 0};
  for (int t = 0; t < 5; ++t) {
    // Five standard deviations of a binomial share.
    EXPECT_NEAR(count[static_cast<size_t>(t)] / double{kDraws}, expected[t], 5 * std::sqrt(0.25 / kDraws)) << t;
  }
  EXPECT_EQ(count[4], 0);
}

TEST(Sampling, GreedyTakesTheLowestOfEqualTokens) {
  Sampler sampler({.temp = 0});
  Random random(1);
  EXPECT_EQ(sampler.sample(std::vector<float>{1, 3, 3, 2}, {}, random), 1);
}

TEST(Sampling, GreedyHeedsThePenalty) {
  Sampler sampler({.temp = 0, .repeat_penalty = 2.0, .repeat_last_n = 2});
  Random random(1);
  const std::vector<float> logits = {4, 3, -1};
  EXPECT_EQ(sampler.sample(logits, std::vector<int32_t>{0, 2, 2}, random), 0);  // 0 lies outside the window
  EXPECT_EQ(sampler.sample(logits, std::vector<int32_t>{2, 0}, random), 1);
}

TEST(Sampling, SameSeedSameTokens) {
  std::vector<float> logits(100);
  Random fill(5);
  for (float& l : logits) l = static_cast<float>(fill.normal());
  const auto draw = [&](uint64_t seed) {
    Sampler sampler({});
    Random random(seed);
    std::vector<int32_t> tokens;
    for (int i = 0; i < 50; ++i) tokens.push_back(sampler.sample(logits, tokens, random));
    return tokens;
  };
  EXPECT_EQ(draw(9), draw(9));
  EXPECT_NE(draw(9), draw(10));
}

TEST(Sampling, MaskedTokensAreNeverDrawn) {
  const float none = -std::numeric_limits<float>::infinity();
  Sampler sampler({.temp = 5, .top_k = 3, .top_p = 1, .min_p = 0});
  const auto candidates = sampler.distribution(std::vector<float>{none, 1, none, none}, {});
  ASSERT_EQ(candidates.size(), 1u);
  EXPECT_EQ(candidates[0].token, 1);
}

TEST(Sampling, RefusesLogitsThatAreNotNumbers) {
  const float inf = std::numeric_limits<float>::infinity();
  Sampler sampler({});
  EXPECT_THROW(sampler.distribution(std::vector<float>{1, std::nanf(""), 2}, {}), NumericError);
  EXPECT_THROW(sampler.distribution(std::vector<float>{1, inf}, {}), NumericError);
  EXPECT_THROW(sampler.distribution(std::vector<float>{-inf, -inf}, {}), NumericError);
  EXPECT_THROW(sampler.distribution(std::vector<float>{}, {}), NumericError);
  Sampler named({}, "folder/model");
  try {
    named.distribution(std::vector<float>{inf}, {});
    FAIL() << "no error";
  } catch (const NumericError& e) {
    EXPECT_TRUE(std::string(e.what()).starts_with("folder/model: the logits are NaN or infinite")) << e.what();
  }
}

// The ranges are those of the table, which the command has too.
TEST(Sampling, OptionsOutOfRangeAreRefusedByName) {
  const auto at_fault = [](auto change) {
    GenerateOptions o;
    change(o);
    try {
      sampling_options(o);
    } catch (const ArgumentError& e) {
      EXPECT_TRUE(std::string(e.what()).starts_with("--" + e.option() + ": expected ")) << e.what();
      return e.option();
    }
    return std::string("none");
  };
  EXPECT_EQ(at_fault([](auto&) {}), "none");
  EXPECT_EQ(at_fault([](auto& o) { o.temp = -3; }), "temp");
  EXPECT_EQ(at_fault([](auto& o) { o.temp = 101; }), "temp");
  EXPECT_EQ(at_fault([](auto& o) { o.temp = std::nan(""); }), "temp");
  EXPECT_EQ(at_fault([](auto& o) { o.top_k = -1; }), "top-k");
  EXPECT_EQ(at_fault([](auto& o) { o.top_p = 0; }), "top-p");
  EXPECT_EQ(at_fault([](auto& o) { o.top_p = 1.01; }), "top-p");
  EXPECT_EQ(at_fault([](auto& o) { o.min_p = -0.1; }), "min-p");
  EXPECT_EQ(at_fault([](auto& o) { o.repeat_penalty = 1e-9; }), "repeat-penalty");
  EXPECT_EQ(at_fault([](auto& o) { o.repeat_penalty = std::numeric_limits<double>::infinity(); }), "repeat-penalty");
  EXPECT_EQ(at_fault([](auto& o) { o.repeat_last_n = -2; }), "repeat-last-n");
  EXPECT_EQ(at_fault([](auto& o) { o.repeat_last_n = -1; }), "none");
  EXPECT_EQ(at_fault([](auto& o) { o.predict = -2; }), "predict");
  EXPECT_EQ(at_fault([](auto& o) { o.context = -1; }), "ctx-size");
  EXPECT_EQ(at_fault([](auto& o) { o.speculate = 33; }), "speculate");
}

TEST(Sampling, NamesOptionsThatOthersMakeIdle) {
  const auto warning = [](const GenerateOptions& o) {
    return ignored_options_warning(ignored_of(generate_options(), o, o));
  };
  GenerateOptions o;
  EXPECT_EQ(warning(o), "");
  o.top_k = 41;
  o.seed = 1;
  o.repeat_penalty = 1.1;
  EXPECT_EQ(warning(o), "");  // they do something
  o.temp = 0;
  EXPECT_EQ(warning(o), "without effect: --top-k, --seed (--temp 0 always takes the likeliest token)");
  o.top_k = 0;  // off, as it is
  EXPECT_EQ(warning(o), "without effect: --seed (--temp 0 always takes the likeliest token)");
  o.min_p = 0.1;
  EXPECT_NE(warning(o).find("--min-p, --seed ("), std::string::npos);
  o.temp = 0.7;
  o.top_k = 1;
  EXPECT_EQ(warning(o), "without effect: --temp, --min-p, --seed (--top-k 1 leaves the likeliest token alone)");
  GenerateOptions p;
  p.repeat_last_n = 10;
  EXPECT_EQ(warning(p), "without effect: --repeat-last-n (--repeat-penalty 1 punishes nothing)");
  p.repeat_penalty = 1.1;
  EXPECT_EQ(warning(p), "");
  p.repeat_last_n = 0;
  EXPECT_EQ(warning(p), "without effect: --repeat-penalty (--repeat-last-n 0 looks back on no token)");
}

}  // namespace
}  // namespace metal_marlin

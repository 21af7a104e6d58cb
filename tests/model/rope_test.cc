// Rotary frequencies against those of transformers 5.24 (modeling_rope_utils, float32), head_dim 16.
#include "model/rope.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include <cmath>

namespace metal_marlin {
namespace {

constexpr double kFloat32 = 1e-6;  // transformers computes in float32, through a power and two quotients

struct Case {
  const char* name;
  RopeConfig config;
  int64_t max_positions;
  int64_t length;
  std::vector<double> inverse;
  double attention_factor;
};

RopeConfig make(RopeType type, double theta, double factor, int64_t original = 0) {
  RopeConfig c;
  c.type = type;
  c.theta = theta;
  c.factor = factor;
  c.original_max_position_embeddings = original;
  return c;
}

std::vector<Case> cases() {
  RopeConfig yarn = make(RopeType::kYarn, 500, 8, 32);
  yarn.beta_fast = 4;
  yarn.beta_slow = 0.5;
  yarn.mscale = 3;
  yarn.mscale_all_dim = 0.5;
  yarn.truncate = false;
  RopeConfig given = yarn;
  given.attention_factor = 1.25;
  const std::vector<double> yarn_inverse = {1.0,          0.35628802,   0.094717592, 0.012156156,
                                            0.0055901702, 0.0025707141, 0.001182177, 0.00054363982};
  const std::vector<double> plain = {1.0,          0.31622776,   0.1,   0.031622779,
                                     0.0099999998, 0.0031622779, 0.001, 0.00031622779};
  return {{"default", make(RopeType::kDefault, 10000, 1), 64, 900, plain, 1.0},
          {"linear",
           make(RopeType::kLinear, 10000, 4),
           64,
           40,
           {0.25, 0.079056941, 0.025, 0.0079056947, 0.0024999999, 0.00079056947, 0.00025000001, 7.9056947e-05},
           1.0},
          {"dynamic within", make(RopeType::kDynamic, 10000, 2), 64, 40, plain, 1.0},
          {"dynamic beyond",
           make(RopeType::kDynamic, 10000, 2),
           64,
           200,
           {1.0, 0.24952847, 0.062264454, 0.015536753, 0.0038768628, 0.00096738752, 0.00024139074, 6.0233862e-05},
           1.0},
          {"llama3",
           make(RopeType::kLlama3, 500, 8, 32),
           256,
           40,
           {1.0, 0.23748969, 0.031185457, 0.012156156, 0.0055901702, 0.0025707141, 0.001182177, 0.00054363982},
           1.0},
          {"yarn",
           make(RopeType::kYarn, 10000, 4, 64),
           256,
           40,
           {1.0, 0.23717082, 0.049999997, 0.0079056947, 0.0024999999, 0.00079056947, 0.00025000001, 7.9056947e-05},
           1.138629436111989},
          {"yarn with mscale, not truncated", yarn, 256, 40, yarn_inverse, 1.4708999405067447},
          {"yarn with an attention factor", given, 256, 40, yarn_inverse, 1.25}};
}

TEST(Rope, FrequenciesEqualTransformers) {
  for (const auto& c : cases()) {
    const auto f = rope_frequencies(c.config, 16, c.max_positions, c.length);
    ASSERT_EQ(f.inverse.size(), c.inverse.size()) << c.name;
    for (size_t i = 0; i < c.inverse.size(); ++i) {
      EXPECT_NEAR(f.inverse[i], c.inverse[i], kFloat32 * c.inverse[i]) << c.name << " " << i;
    }
    EXPECT_NEAR(f.attention_factor, c.attention_factor, 1e-12) << c.name;
  }
}

TEST(Rope, TablesHoldCosinesTimesTheAttentionFactor) {
  const RopeConfig c = make(RopeType::kYarn, 10000, 4, 64);
  const auto f = rope_frequencies(c, 16, 256, 100);
  const auto t = make_rope(c, 16, 256, 100, 100);
  EXPECT_EQ(t.half, 8);
  for (const int64_t p : {0, 1, 99}) {
    for (int64_t i = 0; i < t.half; ++i) {
      const double angle = static_cast<double>(p) * f.inverse[static_cast<size_t>(i)];
      EXPECT_NEAR(t.cos(p, i), f.attention_factor * std::cos(angle), 1e-7);
      EXPECT_NEAR(t.sin(p, i), f.attention_factor * std::sin(angle), 1e-7);
    }
  }
}

TEST(Rope, PartialRotary) {
  RopeConfig c;
  c.partial_rotary_factor = 0.75;
  EXPECT_EQ(rope_frequencies(c, 8, 64, 10).inverse.size(), 3u);
  EXPECT_NEAR(rope_frequencies(c, 8, 64, 10).inverse[1], std::pow(10000.0, -2.0 / 6.0), 1e-15);
  c.partial_rotary_factor = 0.1;
  EXPECT_THROW(rope_frequencies(c, 8, 64, 10), UnsupportedError);
  c.partial_rotary_factor = 2.0;
  EXPECT_THROW(rope_frequencies(c, 8, 64, 10), UnsupportedError);
  c.partial_rotary_factor = 1.0;
  EXPECT_THROW(rope_frequencies(c, 7, 64, 10), UnsupportedError);
}

}  // namespace
}  // namespace metal_marlin

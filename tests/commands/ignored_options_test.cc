#include "recipe/ignored_options.h"
#include "recipe/presets.h"
#include "run/run_identity.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <set>

#include "core/enum_names.h"
#include "options/sources.h"
#include "recipe/make_recipe.h"

namespace metal_marlin {
namespace {

class IgnoredOptionsTest : public testing::Test {
 protected:
  IgnoredOptionsTest() : source_(ModelSource::open(std::string(TEST_DATA) + "/models/llama")) {}
  static QuantizeOptions options(const std::string& method, const std::string& calibration = "text.txt") {
    QuantizeOptions o;
    o.method = enum_named<Method>(method).value();
    o.group_size = 8;
    o.calibration.calibration = {calibration};
    return o;
  }
  std::set<std::string> names(const QuantizeOptions& o) const {
    std::set<std::string> out;
    for (const IgnoredOption& i : ignored_options(o)) EXPECT_TRUE(out.insert(i.name).second);
    // What only some formats hold is idle with all others.
    for (const char* name : {"embedding-bits", "embedding-type", "head-type"}) EXPECT_EQ(out.erase(name), 1U) << name;
    return out;
  }
  std::string warning(const QuantizeOptions& o) const { return ignored_options_warning(ignored_options(o)); }
  std::string fingerprint(const QuantizeOptions& o) const {
    return run_fingerprint(run_identity(o, make_recipe(o, *source_), *source_));
  }

  std::unique_ptr<ModelSource> source_;
};

using Names = std::set<std::string>;

TEST_F(IgnoredOptionsTest, FollowFromMethodAndCalibration) {
  const Names text = {"seed", "temperature", "chunks", "sensitivity-tokens"};  // a text, of which a part is held back
  const auto with = [](Names a, const Names& b) {
    a.insert(b.begin(), b.end());
    return a;
  };
  EXPECT_EQ(names(options("gptq")), with(text, {"effort", "salient-ratio", "activation-method", "awq-loss"}));
  EXPECT_EQ(names(options("rtn")), with(text, {"effort", "salient-ratio", "activation-method", "awq-loss", "damping",
                                               "guard", "act-order", "first-token-weight"}));
  EXPECT_EQ(names(options("awq-paper")), with(text, {"effort", "salient-ratio", "damping", "guard", "act-order"}));
  EXPECT_EQ(names(options("awq")), with(text, {"salient-ratio"}));
  QuantizeOptions fast = options("awq");
  fast.effort = Effort::kFast;
  EXPECT_EQ(names(fast), with(text, {"salient-ratio", "guard", "act-order"}));
  fast.guard = true;
  EXPECT_NE(warning(fast).find("--effort fast has no error feedback"), std::string::npos) << warning(fast);
  EXPECT_EQ(names(options("awq-salient")), with(text, {"effort", "awq-loss", "damping", "guard", "act-order"}));
  EXPECT_EQ(names(options("gptq", "self")), (Names{"effort", "salient-ratio", "activation-method", "awq-loss", "chunks",
                                                   "context", "sensitivity-tokens"}));
  EXPECT_EQ(names(options("gptq", "stats.npz")),
            (Names{"effort", "salient-ratio", "activation-method", "awq-loss", "guard", "samples", "sequence-length",
                   "precision", "seed", "temperature", "bos", "chunks", "context", "sensitivity-tokens"}));
  QuantizeOptions named = options("gptq", "stats.npz");
  named.evaluation.text = "test.txt";
  EXPECT_EQ(names(named), (Names{"effort", "salient-ratio", "activation-method", "awq-loss", "guard", "samples",
                                 "sequence-length", "precision", "seed", "temperature", "sensitivity-tokens"}));
  QuantizeOptions weighed = options("awq", "self");
  weighed.calibration.calibration_weights = {2};
  EXPECT_TRUE(names(weighed).count("calibration-weights"));
  EXPECT_EQ(fingerprint(weighed), fingerprint(options("awq", "self")));
  weighed.calibration.calibration = {"text.txt", "self"};
  weighed.calibration.calibration_weights = {2, 1};
  EXPECT_FALSE(names(weighed).count("calibration-weights") + names(weighed).count("seed"));
  QuantizeOptions block = options("awq-paper", "stats.npz");
  EXPECT_FALSE(names(block).count("awq-loss"));
  block.awq_loss = ScaleLoss::kBlock;  // needs the inputs of blocks, which statistics do not hold
  EXPECT_TRUE(names(block).count("awq-loss"));
}

TEST_F(IgnoredOptionsTest, OnlyThoseThatWereAskedForAreWarnedOf) {
  QuantizeOptions o = options("rtn");
  EXPECT_EQ(warning(o), "");
  o.damping = 0.01;  // as it would be: set all the same
  o.calibration.samples = 128;
  EXPECT_EQ(warning(o), "without effect: --damping (--method rtn rounds without the Gram matrix)");
  o = options("rtn");
  o.calibration.seed = 3;
  o.calibration.temperature = 2;
  EXPECT_EQ(warning(o), "without effect: --seed, --temperature (only --calibration self uses it)");
  CalibrationOptions c;
  c.temperature = 2;
  EXPECT_EQ(ignored_options_warning(ignored_options(c)), "");
  c.calibration = {"text.txt"};
  EXPECT_NE(ignored_options_warning(ignored_options(c)).find("--temperature"), std::string::npos);
}

// What is switched off where it would be off anyway asks for nothing.
TEST_F(IgnoredOptionsTest, WhatIsSwitchedOffIsNotNamed) {
  QuantizeOptions o = options("rtn");
  o.guard = o.refine = o.scale_search = o.signed_scales = o.error_feedback = o.clip = false;
  o.act_order = false;
  EXPECT_EQ(warning(o), "");
  o.guard = true;
  EXPECT_NE(warning(o).find("--guard ("), std::string::npos) << warning(o);
}

TEST_F(IgnoredOptionsTest, DoNotChangeTheFingerprint) {
  const std::vector<std::pair<std::string, std::function<void(QuantizeOptions&)>>> changes = {
      {"effort", [](auto& o) { o.effort = Effort::kFast; }},
      {"salient-ratio", [](auto& o) { o.salient_ratio = 0.5; }},
      {"activation-method", [](auto& o) { o.activation_method = Statistic::kMax; }},
      {"awq-loss", [](auto& o) { o.awq_loss = ScaleLoss::kBlock; }},
      {"damping", [](auto& o) { o.damping = 0.5; }},
      {"guard", [](auto& o) { o.guard = o.method != Method::kAwq; }},
      {"act-order", [](auto& o) { o.act_order = false; }},
      {"samples", [](auto& o) { o.calibration.samples = 7; }},
      {"sequence-length", [](auto& o) { o.calibration.sequence_length = 9; }},
      {"first-token-weight", [](auto& o) { o.first_token_weight = 2; }},
      {"builtin-share", [](auto& o) { o.builtin_share = 0.5; }},
      {"seed", [](auto& o) { o.calibration.seed = 9; }},
      {"temperature", [](auto& o) { o.calibration.temperature = 2; }},
      {"bos", [](auto& o) { o.calibration.bos = o.evaluation.bos = Bos::kNever; }},
      {"chunks", [](auto& o) { o.evaluation.chunks = 9; }},
      {"context", [](auto& o) { o.evaluation.context = 99; }},
      {"sensitivity-tokens", [](auto& o) { o.sensitivity_tokens = 77; }}};
  for (const std::string method : {"rtn", "gptq", "awq-paper", "awq-salient"}) {
    const QuantizeOptions base = options(method, "self");
    const Names ignored = names(base);
    for (const auto& [name, change] : changes) {
      QuantizeOptions other = base;
      change(other);
      const bool idle = ignored.count(name) + names(other).count(name) > 0;
      EXPECT_EQ(fingerprint(other) == fingerprint(base), idle) << method << " " << name;
    }
    QuantizeOptions other = base;
    other.max_kl = 1;
    other.machine.threads = 1;
    other.machine.memory_bytes = uint64_t{1} << 40;
    EXPECT_EQ(fingerprint(other), fingerprint(base));
    other.scheme = Scheme::kSymmetric;
    EXPECT_NE(fingerprint(other), fingerprint(base));
  }
}

TEST_F(IgnoredOptionsTest, FastEffortTakesFewSequencesUnlessTheyAreNamed) {
  QuantizeOptions o = options("awq", "self");
  EXPECT_EQ(samples_of(o), 128);
  o.effort = Effort::kFast;
  EXPECT_EQ(samples_of(o), kFastSamples);
  EXPECT_EQ(options_in_force(o).calibration.samples, kFastSamples);
  for (const int64_t asked : {16, 40, 127, 128, 129}) {
    o.calibration.samples = asked;
    EXPECT_EQ(samples_of(o), asked);
    const Plan plan = plan_quantization(source_->path(), testing::TempDir() + "none", o);
    EXPECT_EQ(plan.options.at("samples"), OptionValue(asked));
  }
  o.calibration.samples = 40;
  EXPECT_NE(fingerprint(o), fingerprint([&] {
              QuantizeOptions best = o;
              best.effort = Effort::kBest;
              return best;
            }()));
  const Recipe recipe = make_recipe(o, *source_);
  EXPECT_TRUE(!recipe.rounding.feedback && recipe.rounding.refine && !recipe.guard &&
              recipe.scale_loss == ScaleLoss::kLinear);
  o.awq_loss = ScaleLoss::kFeedback;
  EXPECT_THROW(make_recipe(o, *source_), ArgumentError);
  o.effort = Effort{99};
  EXPECT_THROW(options_in_force(o), ArgumentError);
}

TEST_F(IgnoredOptionsTest, WhatChoosesTheBitsMakesTheRun) {
  QuantizeOptions base = options("rtn", "self");
  base.target_bits = 4.5;
  EXPECT_FALSE(names(base).count("sensitivity-tokens"));
  QuantizeOptions other = base;
  other.max_kl = 0.1;  // the gate alone
  EXPECT_EQ(fingerprint(other), fingerprint(base));
  other.sensitivity_tokens = 77;
  EXPECT_NE(fingerprint(other), fingerprint(base));
  other = base;
  other.target_bits = 4.6;
  EXPECT_NE(fingerprint(other), fingerprint(base));
  other.target_bits.reset();
  other.mixed_bits = true;
  other.max_kl = 0.1;
  QuantizeOptions stricter = other;
  stricter.max_kl = 0.05;  // now it is what the bits follow from
  EXPECT_NE(fingerprint(other), fingerprint(stricter));
  other = options("rtn", "self");
  other.linear_bits = {"*.down_proj.*=16"};
  EXPECT_NE(fingerprint(other), fingerprint(options("rtn", "self")));
}

}  // namespace
}  // namespace metal_marlin

// A report of facts that were made by hand: where each figure of a run comes to stand.
#include "report/run_report.h"

#include <gtest/gtest.h>
#include <metal_marlin/report.h>

#include <algorithm>
#include <string>

#include "stages/block_fixture.h"

namespace metal_marlin {
namespace {

class RunReportTest : public BlockFixture {
 protected:
  RunReportTest() {
    texts_.calibration = tokens(3, 10, 1);
    texts_.held_back = tokens(2, 8, 2);
    texts_.held_back_source = "the last 16 tokens of a.txt";
    texts_.record.sources.resize(1);
    run_options_.calibration.calibration = {"/home/somebody/a.txt"};

    facts_.model = "/home/somebody/models/llama";
    facts_.output = "/home/somebody/out/";
    facts_.fingerprint = "0123";
    facts_.identity.version = "9.9";
    facts_.resumed_blocks = 1;
    facts_.texts = &texts_;
    facts_.calibration_tokens = 30;
    facts_.few_tokens = {{"w", 64, 30}};
    facts_.plan.peak_bytes = 12345;
    facts_.skipped = {{"model.layers.0.x.weight", "--skip"}};
    WriteReport written;
    written.files = {{"model.safetensors", 500}, {"config.json", 20}};
    written.quantized_bytes = 300;
    written.kept_bytes = 200;
    written.quantized_weights = 600;
    written.kept_weights = 100;
    written.bits_per_weight = 5.5;
    written.clamped = {{"model.norm.weight", 2, 1, 70000}};
    facts_.written = {{"native", written}, {"gptq_v2", WriteReport{.quantized_bytes = 310, .bits_per_weight = 6}}};
    facts_.blocks.resize(2);
    LinearRecord linear;
    linear.name = "model.layers.0.self_attn.q_proj.weight";
    facts_.blocks[0].linears = {linear};
    linear.name = "model.layers.1.self_attn.q_proj.weight";
    linear.raised_scales = 3;
    facts_.blocks[1].linears = {linear};
    facts_.blocks[0].invariance_error = 0.25;
    facts_.blocks[1].invariance_error = 0.125;
    facts_.blocks[1].scales.push_back({.layer = 1, .tap = "qkv"});
  }
  Report report() { return build_report(*source_, recipe_, run_options_, facts_, tracker_); }

  RunTexts texts_;
  RunFacts facts_;
};

TEST_F(RunReportTest, EachFactHasItsPlace) {
  tracker_.warn("careful");
  const Report r = report();
  EXPECT_EQ(r.input.family, "llama");
  EXPECT_EQ(r.input.digest, source_->digest().text());
  EXPECT_EQ(r.run.fingerprint, "0123");
  EXPECT_EQ(r.run.identity->version, "9.9");
  EXPECT_EQ(r.run.predicted_memory_bytes, 12345);
  EXPECT_EQ(r.run.resumed_blocks, 1);
  EXPECT_FALSE(r.run.forward);  // nothing was passed
  EXPECT_EQ(r.calibration.sequences, 3);
  EXPECT_EQ(r.calibration.tokens, 30);
  ASSERT_EQ(r.calibration.few_tokens.size(), 1u);
  EXPECT_EQ(r.held_back.kind, "calibration");
  EXPECT_EQ(r.held_back.chunks, 2);
  EXPECT_EQ(r.held_back.tokens, 16);
  ASSERT_EQ(r.linears.size(), 2u);
  EXPECT_EQ(r.linears[1].name, "model.layers.1.self_attn.q_proj.weight");
  ASSERT_EQ(r.scales.size(), 1u);
  EXPECT_EQ(r.scales[0].tap, "qkv");
  EXPECT_EQ(r.invariance_error, 0.25);  // the largest of all blocks
  ASSERT_EQ(r.skipped.size(), 1u);
  EXPECT_EQ(r.skipped[0].reason, "--skip");
  EXPECT_EQ(r.warnings, std::vector<std::string>{"careful"});
  EXPECT_EQ(std::count(r.kept_in_16_bits.begin(), r.kept_in_16_bits.end(), "model.norm.weight"), 1);
  EXPECT_EQ(std::count(r.kept_in_16_bits.begin(), r.kept_in_16_bits.end(), r.linears[0].name), 0);
}

TEST_F(RunReportTest, SizesAreOfTheFirstFormatAndListedOfEach) {
  const Report r = report();
  EXPECT_EQ(r.model.bytes, 500);
  EXPECT_EQ(r.model.bits_per_weight, 5.5);
  EXPECT_EQ(r.model.linears_bits_per_weight, 8.0 * 300 / 600);
  ASSERT_EQ(r.model.formats.size(), 2u);
  EXPECT_EQ(r.model.formats[1].format, "gptq_v2");
  EXPECT_EQ(r.model.formats[1].bytes, 310);
  ASSERT_EQ(r.files.size(), 2u);
  EXPECT_EQ(r.files[0].name, "model.safetensors");
  EXPECT_EQ(r.files[0].format, "native");
  EXPECT_EQ(r.files[0].bytes, 500);
  ASSERT_EQ(r.clamped.size(), 2u);  // scales of a block, then values of a file
  EXPECT_EQ(r.clamped[0].raised_scales, 3);
  EXPECT_EQ(r.clamped[1].format, "native");
  EXPECT_EQ(r.clamped[1].clamped, 2);
  EXPECT_EQ(r.clamped[1].flushed, 1);
}

TEST_F(RunReportTest, FiguresStandOnlyWhereTheyWereMeasured) {
  const Report without = report();
  EXPECT_FALSE(without.model.perplexity.quantized || without.model.kl_divergence.mean || without.model.top1_agreement);
  EXPECT_EQ(without.model.positions, 0);
  EvaluationRecord& e = facts_.evaluation.emplace();
  e.perplexity = {.reference = 10, .quantized = 11};
  e.kl_divergence = {.mean = 0.5, .standard_error = 0.01, .p99 = 2};
  e.top1_agreement = 0.75;
  e.positions = 14;
  run_options_.max_kl = 0.25;
  const Report with = report();
  EXPECT_EQ(with.model.perplexity.reference, 10);
  EXPECT_EQ(with.model.kl_divergence.p99, 2);
  EXPECT_EQ(with.model.positions, 14);
  EXPECT_EQ(with.model.bytes, 500);  // not of the evaluation
  EXPECT_EQ(with.gate.max_kl, 0.25);
  EXPECT_EQ(with.gate.passed, false);
}

// A report may be published: it names no folder of this machine.
TEST_F(RunReportTest, FoldersOfThisMachineStayOut) {
  const Report r = report();
  EXPECT_EQ(r.input.path, "llama");
  EXPECT_EQ(r.run.output, "out");
  EXPECT_EQ(r.to_json().find("/home/somebody"), std::string::npos);
}

}  // namespace
}  // namespace metal_marlin

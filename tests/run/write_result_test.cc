#include "run/write_result.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "stages/block_fixture.h"
#include "stages/block_probe.h"
#include "stages/quantize_block.h"
#include "tokenizer/token_set.h"

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;

class WriteResultTest : public BlockFixture {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("write_result_" + std::to_string(getpid()));
    fs::remove_all(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }
  fs::path folder_;
};

TEST_F(WriteResultTest, ThePlanNamesCodesFoldsAndWhatStays) {
  std::vector<BlockRecord> blocks(layers_.size());
  blocks[1].scales.push_back({.layer = 1, .tap = "o", .producer = "model.layers.1.self_attn.v_proj"});
  blocks[1].changed = {"model.layers.1.input_layernorm.weight"};
  layers_[0].skipped.push_back({"model.layers.0.x.weight", "--skip"});
  const CheckpointPlan plan = result_plan(recipe_, layers_, blocks, {{.positions = 7}, "from here", "from there"});
  EXPECT_EQ(plan.method, "awq");
  EXPECT_EQ(plan.figures.positions, 7);
  EXPECT_EQ(plan.calibration, "from here");
  EXPECT_EQ(plan.evaluation, "from there");
  EXPECT_EQ(plan.quantized.size(), 14u);
  for (const QuantizedLinear& q : plan.quantized) {
    const bool folded = q.name == "model.layers.1.self_attn.o_proj.weight";
    EXPECT_EQ(q.folded, folded ? "model.layers.1.self_attn.v_proj" : "") << q.name;
  }
  ASSERT_EQ(plan.changed.size(), 1u);
  EXPECT_EQ(plan.changed[0].name, "model.layers.1.input_layernorm.weight");
  ASSERT_EQ(plan.skipped.size(), 1u);
  const auto layer_of = journal_layers(layers_, blocks);
  EXPECT_EQ(layer_of.size(), 15u);
  EXPECT_EQ(layer_of.at("model.layers.0.mlp.up_proj.weight"), 0);
  EXPECT_EQ(layer_of.at("model.layers.1.input_layernorm.weight"), 1);
}

TEST_F(WriteResultTest, FormatsHaveFoldersOfTheirOwn) {
  std::vector<BlockRecord> records;
  const auto quantized = [&](int64_t layer) {
    BlockResult r =
        quantize_block(job(layer), load_block(*source_, layer), block_stats(), probe_of_tokens(*source_), tracker_);
    return std::pair(std::move(r.finished), std::move(r.record));
  };
  for (int64_t layer = 0; layer < 2; ++layer) records.push_back(quantized(layer).second);
  const ReadBlock read = [&](int64_t layer) { return quantized(layer).first; };
  const auto plan = result_plan(recipe_, layers_, records, {{}, "", ""});
  fs::create_directories(folder_);
  const auto written = write_formats(*source_, {"native", "gptq_v2"}, plan, journal_layers(layers_, records), read,
                                     folder_.string(), tracker_);
  ASSERT_EQ(written.size(), 2u);
  const auto native = ModelSource::open((folder_ / "native").string());
  const auto gptq = ModelSource::open((folder_ / "gptq_v2").string());
  const FinishedBlock first = read(0);
  for (const auto& [name, q] : first.quantized) {
    EXPECT_EQ(native->load_quantized(name)->codes, q.codes) << name;
    EXPECT_EQ(gptq->load_quantized(name)->codes, q.codes) << name;
  }
}

TEST_F(WriteResultTest, WhatTheCardSaysOfTheEvaluation) {
  TokenSet none;
  TokenSet two;
  two.sequences = {{1, 2, 3}, {1, 2}};
  EvaluationOptions o;
  EXPECT_EQ(evaluated_text(o, none), "nothing (there was no text for it)");
  EXPECT_EQ(evaluated_text(o, two), "held-back part of the calibration text: 2 chunks of 3 tokens");
  o.text = "folder/name.txt";
  EXPECT_EQ(evaluated_text(o, two), "name.txt: 2 chunks of 3 tokens");
  o.text = "none";
  EXPECT_EQ(evaluated_text(o, none), "nothing (--evaluate none)");
}

TEST_F(WriteResultTest, NarrowedTensorsAreToldOfWhereTheyMatter) {
  WriteReport report;
  EXPECT_TRUE(conversion_warnings(*source_, "awq", report, {}, true).empty());
  report.rounded = {"model.norm.weight"};
  EXPECT_TRUE(conversion_warnings(*source_, "awq", report, {}, false).empty());
  const auto warnings = conversion_warnings(*source_, "awq", report, {}, true);
  ASSERT_EQ(warnings.size(), 1u);
  EXPECT_NE(warnings[0].find("1 tensor of the source, which stores it in float32, is written in 16 bits (awq)"),
            std::string::npos)
      << warnings[0];
  EXPECT_NE(warnings[0].find("the first: model.norm.weight"), std::string::npos) << warnings[0];
}

}  // namespace
}  // namespace metal_marlin

// quantize and convert to GGUF: what the file holds is what was chosen, reported and evaluated.
#include <gtest/gtest.h>
#include <metal_marlin/convert.h>
#include <metal_marlin/error.h>
#include <metal_marlin/evaluate.h>
#include <metal_marlin/quantize.h>

#include <cmath>
#include <filesystem>
#include <map>

#include "checkpoint/model_source.h"
#include "commands/gguf_model.h"
#include "core/random.h"
#include "formats/gguf.h"
#include "tokenizer/tokenizer.h"

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;
using test::TemporaryFolder;

class GgufFormats : public testing::Test {
 protected:
  void SetUp() override {
    std::string text;
    Random random(11);
    const char* words[] = {"the", "model", "of", "weights", "is", "small", "and", "a", "test"};
    for (int i = 0; i < 6000; ++i) text += std::string(words[random.below(9)]) + " ";
    folder_.write("text.txt", text);
    fs::create_directories(folder_.path("model"));
    test::write_gguf_model(model_);
  }
  QuantizeOptions options(std::vector<std::string> formats, Method method = Method::kRtn) const {
    QuantizeOptions o;
    o.formats = std::move(formats);
    o.method = method;
    o.calibration.calibration = {folder_.path("text.txt")};
    o.calibration.samples = 8;
    o.calibration.sequence_length = 64;
    o.evaluation.text = "none";
    return o;
  }
  std::string quantized(const QuantizeOptions& o) {
    const std::string out = folder_.path("out" + std::to_string(runs_++));
    report_ = quantize_model(model_.path(""), out, o).report;
    return out;
  }
  std::string message(const QuantizeOptions& o) const {
    try {
      quantize_model(model_.path(""), folder_.path("refused"), o);
    } catch (const ArgumentError& error) {
      EXPECT_FALSE(fs::exists(folder_.path("refused")) && !fs::is_empty(folder_.path("refused")));
      return error.what();
    }
    return "";
  }
  static std::map<std::string, std::string> types_in(const std::string& path) {
    const auto source = ModelSource::open(path);
    std::map<std::string, std::string> types;
    for (const CheckpointTensor& t : source->tensors()) types[t.name] = t.stored_as;
    return types;
  }

  TemporaryFolder folder_;
  TemporaryFolder model_;
  Report report_;
  int runs_ = 0;
};

std::string linear(int layer, const std::string& name) {
  return "model.layers." + std::to_string(layer) + "." + name + ".weight";
}

// Type -> type where 256 does not divide the inputs, and the error that rounding may leave of random weights.
struct TypeCase {
  const char* type;
  const char* narrow;
  double most_error;
};
class EachType : public GgufFormats, public testing::WithParamInterface<TypeCase> {};

TEST_P(EachType, IsWhatTheFileHoldsAndTheReportSays) {
  const std::string out = quantized(options({std::string("gguf:") + GetParam().type}));
  const auto before = ModelSource::open(model_.path(""));
  const auto after = ModelSource::open(out);
  after->check();
  EXPECT_EQ(after->format(), "gguf");
  const auto types = types_in(out);
  EXPECT_EQ(types.at(linear(1, "self_attn.q_proj")), GetParam().type);
  EXPECT_EQ(types.at(linear(1, "mlp.down_proj")), GetParam().narrow);
  EXPECT_EQ(types.at("model.norm.weight"), "F32");
  ASSERT_EQ(report_.linears.size(), 14U);
  for (const LinearRecord& record : report_.linears) {
    const Matrix a = before->load(record.name);
    const Matrix b = after->load(record.name);
    double error = 0;
    double norm = 0;
    for (int64_t i = 0; i < a.size(); ++i) {
      const double d = static_cast<double>(a.data()[i]) - b.data()[i];
      error += d * d;
      norm += static_cast<double>(a.data()[i]) * a.data()[i];
    }
    const double relative = std::sqrt(error / norm);
    // The record weighs columns by the norm before them (Unfolding).
    EXPECT_NEAR(relative, record.weight_error, 0.04 * relative) << record.name;
    EXPECT_LT(relative, GetParam().most_error) << record.name;
  }
}
INSTANTIATE_TEST_SUITE_P(Types, EachType,
                         testing::Values(TypeCase{"Q4_0", "Q4_0", 0.09}, TypeCase{"Q4_1", "Q4_1", 0.09},
                                         TypeCase{"Q5_0", "Q5_0", 0.05}, TypeCase{"Q5_1", "Q5_1", 0.05},
                                         TypeCase{"Q8_0", "Q8_0", 0.006}, TypeCase{"Q4_K", "Q5_0", 0.09},
                                         TypeCase{"Q5_K", "Q5_1", 0.05}, TypeCase{"Q6_K", "Q8_0", 0.03},
                                         TypeCase{"IQ4_NL", "IQ4_NL", 0.11}, TypeCase{"IQ4_XS", "IQ4_NL", 0.11}),
                         [](const auto& info) { return std::string(info.param.type); });

// llama.cpp's rule: of 16 layers 0, 1, 14, 15 and every third of the others.
TEST_F(GgufFormats, MixesFollowTheRuleOfLlamaCpp) {
  TemporaryFolder deep;
  test::write_gguf_model(deep, false, 16);
  const QuantizeOptions o = options({"gguf:Q4_K_M"});
  quantize_model(deep.path(""), folder_.path("mix"), o);
  const auto types = types_in(folder_.path("mix"));
  for (int layer = 0; layer < 16; ++layer) {
    const bool more = layer < 2 || layer >= 14 || layer == 4 || layer == 7 || layer == 10 || layer == 13;
    EXPECT_EQ(types.at(linear(layer, "self_attn.v_proj")), more ? "Q6_K" : "Q4_K") << layer;
    EXPECT_EQ(types.at(linear(layer, "mlp.down_proj")), more ? "Q8_0" : "Q5_0") << layer;
    EXPECT_EQ(types.at(linear(layer, "self_attn.o_proj")), "Q4_K");
  }
  EXPECT_EQ(types.at("lm_head.weight"), "Q6_K");
  EXPECT_EQ(types.at("model.embed_tokens.weight"), "Q4_K");
  const GgufFile file(test::gguf_in(folder_.path("mix")));
  EXPECT_EQ(file.metadata().get_u64("general.file_type"), 15U);
}

TEST_F(GgufFormats, CodesAreThoseOfTheOtherFormats) {
  QuantizeOptions o = options({"native", "gguf:Q4_0", "mlx"}, Method::kAwq);
  const std::string out = quantized(o);
  const auto native = ModelSource::open(out + "/native");
  const auto gguf = ModelSource::open(out + "/gguf-Q4_0");
  for (const LinearSlot& slot : native->linears(1)) {
    const QuantizedTensor a = *native->load_quantized(slot.weight);
    const auto b = gguf->load_codes(slot.weight);
    ASSERT_TRUE(b) << slot.weight;
    EXPECT_TRUE(a.codes == b->tensor.codes && a.scales == b->tensor.scales && a.zeros == b->tensor.zeros)
        << slot.weight;
  }
}

TEST_F(GgufFormats, ConvertPassesCodesOnInBothDirections) {
  const std::string out = quantized(options({"gguf:Q4_0"}));
  for (const char* by : {"native", "mlx", "compressed-tensors"}) {
    const std::string there = folder_.path(std::string("there-") + by);
    const std::string back = folder_.path(std::string("back-") + by);
    convert_model(out, there, {.to = by});
    convert_model(there, back, {.to = "gguf:Q4_0"});
    const GgufFile a(test::gguf_in(out));
    const GgufFile b(test::gguf_in(back));
    for (const GgufTensor& t : a.tensors()) {
      if (!t.name.starts_with("blk.") || t.type != GgmlType::kQ4_0) continue;
      const GgufTensor& other = b.get(t.name);
      EXPECT_EQ(other.type, t.type);
      EXPECT_TRUE(std::equal(t.bytes.begin(), t.bytes.end(), other.bytes.begin(), other.bytes.end())) << t.name;
    }
  }
}

TEST_F(GgufFormats, TheReportMeasuresWhatTheFileHolds) {
  for (const char* format : {"gguf:Q4_K", "gguf:IQ4_XS", "gguf:Q4_0"}) {
    QuantizeOptions o = options({format}, Method::kAwq);
    o.head_type = "Q4_0";  // so that it is felt
    o.evaluation.text = folder_.path("text.txt");
    o.evaluation.chunks = 4;
    o.evaluation.context = 64;
    const std::string out = quantized(o);
    const Evaluation found = evaluate_model(out, model_.path(""), o.evaluation, MachineOptions());
    const double reported = *report_.model.kl_divergence.mean;
    EXPECT_NEAR(*found.model.kl_divergence.mean, reported, 2e-3 * reported) << format;
    EXPECT_EQ(types_in(out).at("lm_head.weight"), "Q4_0");
  }
}

// MLX rounds embedding and head to codes.
TEST_F(GgufFormats, TheReportMeasuresTheEmbeddingOfMlx) {
  for (const int bits : {3, 16}) {
    QuantizeOptions o = options({"mlx"}, Method::kAwq);
    o.group_size = 32;
    o.embedding_bits = bits;
    o.evaluation.text = folder_.path("text.txt");
    o.evaluation.chunks = 4;
    o.evaluation.context = 64;
    const std::string out = quantized(o);
    const Evaluation found = evaluate_model(out, model_.path(""), o.evaluation, MachineOptions());
    const double reported = *report_.model.kl_divergence.mean;
    EXPECT_NEAR(*found.model.kl_divergence.mean, reported, 2e-3 * reported) << bits;
    const auto types = types_in(out);
    for (const char* name : {"model.embed_tokens.weight", "lm_head.weight"})
      EXPECT_EQ(types.at(name), bits == 16 ? "F16" : "mlx");
  }
}

TEST_F(GgufFormats, FloatsAreThoseOfTheSource) {
  convert_model(model_.path(""), folder_.path("f16"), {.to = "gguf:F16"});
  const auto before = ModelSource::open(model_.path(""));
  const auto after = ModelSource::open(folder_.path("f16"));
  after->check();
  for (const CheckpointTensor& t : before->tensors()) {
    EXPECT_EQ(test::values_of(before->load(t.name)), test::values_of(after->load(t.name))) << t.name;
  }
  EXPECT_EQ(before->tokenizer().encode("the model is a test", true),
            after->tokenizer().encode("the model is a test", true));
}

// The scale of o's inputs is folded into v, which stays in 16 bits but is blocks in the source.
TEST_F(GgufFormats, AFoldedWeightOfBlocksIsWrittenFolded) {
  const std::string blocks = quantized(options({"gguf:Q5_0"}));
  QuantizeOptions o = options({"native"}, Method::kAwqPaper);
  o.skip = {"*.q_proj.*", "*.gate_proj.*", "*.down_proj.*"};
  o.bits = 8;
  o.group_size = 32;
  const std::string out = folder_.path("folded");
  const Report report = quantize_model(blocks, out, o).report;
  ASSERT_FALSE(report.scales.empty());
  EXPECT_GT(report.scales.front().largest / report.scales.front().least, 1.05);
  EvaluationOptions text;
  text.text = folder_.path("text.txt");
  text.chunks = 4;
  text.context = 64;
  EXPECT_LT(*evaluate_model(out, blocks, text, MachineOptions()).model.kl_divergence.mean, 1e-4);
}

TEST_F(GgufFormats, LinearBitsChooseTypes) {
  QuantizeOptions o = options({"gguf:Q4_K"});
  o.linear_bits = {"*.v_proj.*=6", "*.0.mlp.down_proj.*=8", "*.1.mlp.down_proj.*=16"};
  const auto types = types_in(quantized(o));
  EXPECT_EQ(types.at(linear(0, "self_attn.v_proj")), "Q6_K");
  EXPECT_EQ(types.at(linear(0, "self_attn.q_proj")), "Q6_K");  // engines fuse them
  EXPECT_EQ(types.at(linear(0, "mlp.down_proj")), "Q8_0");
  EXPECT_EQ(types.at(linear(1, "mlp.down_proj")), "F16");
}

TEST_F(GgufFormats, RefusesWhatTheTypeDoesNotLeaveOpen) {
  QuantizeOptions bits = options({"gguf:Q4_K"});
  bits.bits = 8;
  EXPECT_EQ(message(bits),
            "--bits 8: the format gguf:Q4_K has 4 bits; leave the option out, or choose another --format");
  QuantizeOptions group = options({"gguf:Q6_K"});
  group.group_size = 128;
  EXPECT_EQ(
      message(group),
      "--group-size 128: the format gguf:Q6_K has groups of 16; leave the option out, or choose another --format");
  QuantizeOptions scheme = options({"gguf:Q4_1"});
  scheme.scheme = Scheme::kSymmetric;
  EXPECT_NE(message(scheme).find("the format gguf:Q4_1 has a minimum for each group"), std::string::npos);
  EXPECT_NE(message(options({"gguf:Q4_0", "gguf:Q4_1"})).find("rounded to different grids"), std::string::npos);
  EXPECT_NE(message(options({"gguf:Q4_K", "awq"})).find("rounded to different grids"), std::string::npos);
  QuantizeOptions target = options({"gguf:Q4_K"});
  target.target_bits = 5;
  EXPECT_NE(message(target).find("leave no choice of bits"), std::string::npos);
  QuantizeOptions shards = options({"gguf:Q4_0"});
  shards.max_shard_bytes = 0;
  EXPECT_NE(message(shards).find("--max-shard-size: expected at least 1 MB"), std::string::npos);
  QuantizeOptions head = options({"gguf:Q4_0"});
  head.head_type = "Q9_0";
  EXPECT_NE(message(head).find("--head-type: expected one of"), std::string::npos);
}

TEST_F(GgufFormats, ABlockOfFewBitsIsNoCodeOfOtherFormats) {
  const std::string out = quantized(options({"gguf:Q4_K"}));
  try {
    convert_model(out, folder_.path("refused"), {.to = "native"});
    FAIL();
  } catch (const UnsupportedError& e) {
    EXPECT_NE(std::string(e.what()).find("tensor blk.0."), std::string::npos) << e.what();
    EXPECT_NE(std::string(e.what()).find("Q4_K"), std::string::npos);
  }
}

}  // namespace
}  // namespace metal_marlin

// Checkpoints of 3 and 8 bits, and of several widths.
#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include <nlohmann/json.hpp>

#include "checkpoint/model_source.h"
#include "core/files/atomic_file.h"
#include "formats/safetensors.h"
#include "write/checkpoint_writer.h"
#include "write/tiny_model.h"

namespace metal_marlin {
namespace {

using nlohmann::json;
using namespace test;

CheckpointPlan plan_of(int bits, int64_t group_size = 32) {
  CheckpointPlan plan = tiny_plan(group_size, false);
  plan.bits = bits;
  for (QuantizedLinear& l : plan.quantized) l.bits = bits;
  return plan;
}

// 8 bits for the k and v of a layer, 3 for one linear, 4 for the rest.
CheckpointPlan mixed_plan() {
  CheckpointPlan plan = tiny_plan(32, false);
  for (QuantizedLinear& l : plan.quantized) {
    if (l.name.find("k_proj") != std::string::npos || l.name.find("v_proj") != std::string::npos) l.bits = 8;
    if (l.name == "model.layers.1.mlp.down_proj.weight") l.bits = 3;
  }
  return plan;
}

class Written {
 public:
  Written(const CheckpointPlan& plan, const std::string& format) : plan_(plan) {
    write_tiny_model(in_.path());
    source_ = ModelSource::open(in_.path());
    TinyProvider provider(plan);
    report_ = CheckpointWriter::of(format).write(*source_, plan, provider, out_.path());
  }
  std::map<std::string, std::string> metadata() const {
    return SafetensorsFile(out_ / "model.awq.safetensors").metadata();
  }
  json quantization() const { return json::parse(read_text_file(out_ / "config.json")).at("quantization_config"); }
  std::string card() const { return read_text_file(out_ / "README.md"); }
  const WriteReport& report() const { return report_; }
  // The very codes come back.
  void expect_codes() const {
    const auto read = ModelSource::open(out_.path());
    read->check();
    TinyProvider provider(plan_);
    for (const QuantizedLinear& l : plan_.quantized) {
      const auto found = read->load_quantized(l.name);
      ASSERT_TRUE(found.has_value()) << l.name;
      const QuantizedTensor expected = provider.quantized(l.name);
      EXPECT_EQ(found->bits, l.bits) << l.name;
      EXPECT_EQ(found->group_size, l.group_size) << l.name;
      EXPECT_TRUE(found->codes == expected.codes) << l.name;
      EXPECT_TRUE(found->scales == expected.scales) << l.name;
      EXPECT_TRUE(found->zeros == expected.zeros) << l.name;
    }
  }

 private:
  CheckpointPlan plan_;
  TempFolder in_;
  TempFolder out_;
  std::unique_ptr<ModelSource> source_;
  WriteReport report_;
};

TEST(Widths, ThreeAndEightBitsComeBackFromEachFormatThatHoldsThem) {
  for (const auto& [bits, format] : {std::pair{3, "native"}, {8, "native"}, {3, "gptq_v2"}, {8, "gptq_v2"}}) {
    for (const int64_t group : {int64_t{32}, int64_t{-1}}) {
      SCOPED_TRACE(std::string(format) + " " + std::to_string(bits) + " " + std::to_string(group));
      const Written written(plan_of(bits, group), format);
      written.expect_codes();
      EXPECT_EQ(written.quantization()["bits"], bits);
      EXPECT_NE(written.card().find(std::to_string(bits) + "-bit"), std::string::npos);
      EXPECT_NE(written.card().find("in " + std::to_string(bits) + " bits"), std::string::npos);
      EXPECT_EQ(written.card().find("4-bit"), std::string::npos);
    }
  }
}

TEST(Widths, OneWidthOfAnotherThanFourIsVersion2WithoutEntries) {
  const auto metadata = Written(plan_of(8), "native").metadata();
  EXPECT_EQ(metadata.at("metal_marlin.version"), "2");
  EXPECT_EQ(metadata.at("metal_marlin.bits"), "8");
  EXPECT_EQ(metadata.at("quant_type"), "awq_int8");
  EXPECT_EQ(metadata.count("metal_marlin.nibble_offset"), 0U);  // by which readers of version 1 refuse it
  EXPECT_EQ(metadata.at("metal_marlin.zeros"), "zero_point_minus_half");
  for (const auto& entry : json::parse(metadata.at("metal_marlin.tensors"))) EXPECT_FALSE(entry.contains("bits"));
}

TEST(Widths, FourBitsStayVersion1) {
  const auto metadata = Written(plan_of(4), "native").metadata();
  EXPECT_EQ(metadata.at("metal_marlin.version"), "1");
  EXPECT_EQ(metadata.at("metal_marlin.nibble_offset"), "8");
  EXPECT_EQ(metadata.at("metal_marlin.zeros"), "zero_point_minus_8");
}

TEST(Widths, SeveralInOneNativeCheckpoint) {
  const Written written(mixed_plan(), "native");
  written.expect_codes();
  EXPECT_EQ(written.metadata().at("metal_marlin.version"), "2");
  EXPECT_EQ(written.metadata().at("metal_marlin.bits"), "4");
  const json tensors = json::parse(written.metadata().at("metal_marlin.tensors"));
  EXPECT_EQ(tensors["model.layers.0.self_attn.v_proj.weight"]["bits"], 8);
  EXPECT_EQ(tensors["model.layers.1.mlp.down_proj.weight"]["bits"], 3);
  EXPECT_FALSE(tensors["model.layers.0.mlp.down_proj.weight"].contains("bits"));
  // Codes of each width, f16 scales and f16 zeros.
  uint64_t bytes = 0;
  for (const QuantizedLinear& l : mixed_plan().quantized) {
    const auto weights = static_cast<uint64_t>(l.out_features * l.in_features);
    bytes += weights * static_cast<uint64_t>(l.bits) / 8 + weights / 32 * 4;
  }
  EXPECT_EQ(written.report().quantized_bytes, bytes);
}

// GPTQModel's "dynamic" says what is other than the rest; our reader takes it from the shapes.
TEST(Widths, SeveralInOneGptqCheckpoint) {
  CheckpointPlan plan = mixed_plan();
  for (QuantizedLinear& l : plan.quantized) {
    if (l.name.find("o_proj") != std::string::npos) l.group_size = 16;
  }
  const Written written(plan, "gptq_v2");
  written.expect_codes();
  const json q = written.quantization();
  EXPECT_EQ(q["bits"], 4);
  const json& dynamic = q["dynamic"];
  EXPECT_EQ(dynamic["+:^model\\.layers\\.0\\.self_attn\\.v_proj$"], (json{{"bits", 8}}));
  EXPECT_EQ(dynamic["+:^model\\.layers\\.1\\.mlp\\.down_proj$"], (json{{"bits", 3}}));
  EXPECT_EQ(dynamic["+:^model\\.layers\\.0\\.self_attn\\.o_proj$"], (json{{"group_size", 16}}));
  size_t others = 0;
  for (const QuantizedLinear& l : plan.quantized) others += l.bits != 4 || l.group_size != 32 ? 1 : 0;
  EXPECT_EQ(dynamic.size(), others);
}

// Engines merge q, k and v, and gate and up, and ask for the merged module's settings.
TEST(Widths, MergedModulesHaveTheirRules) {
  CheckpointPlan plan = plan_of(4);
  for (QuantizedLinear& l : plan.quantized) {
    const bool first = l.name.find("layers.0.") != std::string::npos;
    if (first && l.name.find("self_attn") != std::string::npos && l.name.find("o_proj") == std::string::npos)
      l.bits = 8;
    if (!first && l.name.find("k_proj") != std::string::npos)
      l.bits = 8;  // its neighbours have 4: nothing holds for all
  }
  std::erase_if(plan.quantized, [](const QuantizedLinear& l) {
    return l.name.find("layers.1.mlp.gate") != std::string::npos || l.name.find("layers.1.mlp.up") != std::string::npos;
  });
  const Written written(plan, "gptq_v2");
  const json dynamic = written.quantization()["dynamic"];
  EXPECT_EQ(dynamic["+:^model\\.layers\\.0\\.self_attn\\.qkv_proj$"], (json{{"bits", 8}}));
  EXPECT_EQ(dynamic["-:^model\\.layers\\.1\\.mlp\\.gate_up_proj$"], json::object());
  EXPECT_FALSE(dynamic.contains("+:^model\\.layers\\.1\\.self_attn\\.qkv_proj$"));
  EXPECT_EQ(dynamic.size(), 3U + 1U + 1U + 2U + 1U);
}

TEST(Widths, OtherFormatsHoldOne) {
  try {
    const Written written(mixed_plan(), "awq");
    ADD_FAILURE();
  } catch (const ArgumentError& e) {
    EXPECT_NE(std::string(e.what()).find("k_proj"), std::string::npos) << e.what();
    EXPECT_NE(std::string(e.what()).find("native"), std::string::npos) << e.what();
  }
  EXPECT_THROW(Written(mixed_plan(), "gptq"), ArgumentError);  // version 1 has no 3 bits
  EXPECT_THROW(Written(plan_of(8), "awq"), ArgumentError);
  EXPECT_THROW(Written(plan_of(3), "gptq"), ArgumentError);
  EXPECT_THROW(Written(plan_of(8), "marlin"), ArgumentError);
}

TEST(Widths, FormatsSayWhichTheyHold) {
  const auto refusal = [](const char* format, int bits) { return layout_named(format).refusal_of({bits, true, 128}); };
  for (const int bits : {3, 4, 8}) {
    EXPECT_EQ(refusal("native", bits), "");
    EXPECT_EQ(refusal("gptq_v2", bits), "");
    EXPECT_EQ(refusal("gptq", bits).empty(), bits != 3);
    EXPECT_EQ(refusal("awq", bits).empty(), bits == 4);
    EXPECT_EQ(refusal("marlin", bits).empty(), bits == 4);
  }
  EXPECT_EQ(refusal("awq", 8), "holds 4 bits, not 8");
  EXPECT_EQ(refusal("gptq", 3), "holds 2, 4 or 8 bits, not 3");
  EXPECT_EQ(refusal("gptq", 2), "");
  EXPECT_EQ(refusal("gptq_v2", 2), "");
  const Layout* native = &layout_named("native");
  EXPECT_EQ(native->refusal(5, 40, 40, 4), "");
  EXPECT_EQ(native->refusal(5, 40, 40, 8), "");
  EXPECT_NE(native->refusal(5, 40, 40, 3), "");  // 40 codes of 3 bits are no whole words
  EXPECT_NE(native->refusal(5, 42, 42, 8), "");
}

// A delivered tensor of another width than planned is no silent success.
TEST(Widths, DeliveredAsPlanned) {
  TempFolder in;
  TempFolder out;
  write_tiny_model(in.path());
  const auto source = ModelSource::open(in.path());
  TinyProvider provider(plan_of(4));
  try {
    CheckpointWriter::of("native").write(*source, plan_of(8), provider, out.path());
    ADD_FAILURE();
  } catch (const ArgumentError& e) {
    EXPECT_NE(std::string(e.what()).find("8 bits, delivered"), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace metal_marlin

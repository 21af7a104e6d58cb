// Codes under a config that does not speak of them, and the other way round; settings that stand in two places.
#include "checkpoint/models.h"
#include "checkpoint/packed_model.h"
#include "core/half.h"
#include "pack/awq_gemm.h"
#include "pack/gptq.h"
#include "pack/native.h"

namespace metal_marlin {
namespace {

using nlohmann::json;
using test::check_error;
using test::expect;
using test::small_config;
using test::small_shapes;
using test::TemporaryFolder;
using test::warns;

const std::string kDown = "model.layers.0.mlp.down_proj";

json settings_of(const std::string& method, int64_t group = 8) {
  return {{"quant_method", method}, {"bits", 4}, {"group_size", group}, {"desc_act", false}};
}

// All linears as codes of a layout, in groups of `group`.
struct Packed : test::PackedModel {
  explicit Packed(const std::string& method, int64_t group = 8) {
    config["quantization_config"] = settings_of(method, group);
    for (const auto& [name, shape] : small_shapes()) {
      if (!is_linear(name)) {
        tensors.push_back(test::f32_tensor(name, shape));
        continue;
      }
      QuantizedTensor q = test::random_codes(name, shape, group);
      q.symmetric = true;
      q.scales.assign(q.scales.size(), f32_to_f16(0.5F));
      q.zeros.assign(q.zeros.size(), 8);
      PackedTensor packed = method == "awq"    ? pack_awq_gemm(q, name)
                            : method == "gptq" ? pack_gptq(q, name, GptqVersion::kV1)
                                               : pack_native(q, name);
      add(name, std::move(q), std::move(packed));
    }
  }
  std::unique_ptr<ModelSource> open(const TemporaryFolder& folder) const {
    auto source = PackedModel::open(folder);
    source->check();
    return source;
  }
};

TEST(CodeLabels, FloatsUnderALabelOfCodesAreSaid) {
  const std::vector<json> labels = {settings_of("gptq"), settings_of("awq"), settings_of("marlin"),
                                    settings_of("metal_marlin")};
  for (const json& label : labels) {
    for (const char* place : {"config.json", "quantize_config.json", "quant_config.json"}) {
      TemporaryFolder folder;
      json config = small_config();
      if (std::string(place) == "config.json") {
        config["quantization_config"] = label;
      } else {
        folder.write(place, label.dump());
      }
      test::write_small_model(folder, config);
      const auto source = ModelSource::open(folder.path(""));
      source->check();
      EXPECT_TRUE(warns(*source, {place, "no codes are stored", "floats"})) << label << place;
      EXPECT_FALSE(source->quantized());
      EXPECT_FALSE(source->config_json().contains("quantization_config"));
      EXPECT_EQ(test::values_of(source->load(kDown + ".weight")), test::small_values(kDown + ".weight", 16 * 24));
    }
  }
}

TEST(CodeLabels, CodesWithoutALabelNameTheirFileAndTheKey) {
  for (const char* method : {"gptq", "awq", "metal_marlin"}) {
    TemporaryFolder folder;
    Packed made(method);
    made.open(folder);
    made.config.erase("quantization_config");
    const std::string codes = std::string(method) == "metal_marlin" ? ".weight" : ".qweight";
    check_error(expect<FormatError>({"model.safetensors: tensor " + kDown + codes, "codes are stored",
                                     "config.json has no quantization_config", "quantize_config.json"}),
                [&] { made.open(folder); });
  }
}

TEST(CodeLabels, CodesOfAnotherLayoutAreNamed) {
  for (const auto& [stored, label] : {std::pair{"gptq", "metal_marlin"}, {"awq", "marlin"}, {"metal_marlin", "awq"}}) {
    TemporaryFolder folder;
    Packed made(stored);
    made.config["quantization_config"]["quant_method"] = label;
    check_error(expect<FormatError>({kDown, "quantization_config in", "config.json", "found codes of"}),
                [&] { made.open(folder); });
  }
}

TEST(CodeLabels, LoneCodesThatAreMissingAreNamed) {
  for (const char* method : {"gptq", "awq"}) {
    for (const char* left : {".scales", ".qzeros"}) {
      TemporaryFolder folder;
      Packed made(method);
      for (const char* part : {".qweight", ".scales", ".qzeros"}) {
        if (std::string(part) != left) made.erase(kDown + part);
      }
      check_error(expect<FormatError>({"tensor " + kDown + ".qweight is missing from model.safetensors"}),
                  [&] { made.open(folder); });
    }
  }
}

TEST(CodeLabels, ScalesWithoutCodesAndLabelAreNamed) {
  for (const char* method : {"gptq", "awq"}) {
    for (const std::string left : {".scales", ".qzeros"}) {
      TemporaryFolder folder;
      Packed made(method);
      std::erase_if(made.tensors, [&](const OwnedTensor& t) {
        return t.name.find("_proj.") != std::string::npos && !t.name.ends_with(left);
      });
      made.config.erase("quantization_config");
      check_error(expect<FormatError>({".weight is missing from model.safetensors, which holds model.layers.0.",
                                       left + ": a part of a quantized linear without its codes"}),
                  [&] { made.open(folder); });
    }
  }
}

TEST(CodeLabels, TheFileOfOlderToolsDoesNotCountBesideTheConfig) {
  for (const char* name : {"quantize_config.json", "quant_config.json"}) {
    TemporaryFolder folder;
    const Packed made("gptq");
    folder.write(name, R"({"bits": 8, "group_size": 16, "desc_act": true})");
    const auto source = made.open(folder);
    for (const char* key :
         {": bits is 8, but 4 in", ": group_size is 16, but 8 in", ": desc_act is true, but false in"})
      EXPECT_TRUE(warns(*source, {name, key, "config.json, which counts"})) << key;
    EXPECT_EQ(source->load_codes(kDown + ".weight")->tensor.codes, made.codes.at(kDown + ".weight").codes);
    folder.write(name, R"({"w_bit": 4, "q_group_size": 32})");
    EXPECT_TRUE(warns(*made.open(folder), {name, ": group_size is 32, but 8 in"}));
    folder.write(name, R"({"w_bit": 4, "q_group_size": 8})");
    EXPECT_TRUE(made.open(folder)->warnings().empty());
    folder.write(name, "no JSON");
    EXPECT_TRUE(warns(*made.open(folder), {name, "config.json count"}));
  }
}

TEST(CodeLabels, OneSettingUnderTwoNames) {
  TemporaryFolder folder;
  Packed made("awq");
  made.config["quantization_config"]["q_group_size"] = 16;
  made.config["quantization_config"]["w_bit"] = 4;
  const auto source = made.open(folder);
  EXPECT_TRUE(warns(*source, {"group_size is 8", "q_group_size is 16", "group_size counts"}));
  EXPECT_FALSE(warns(*source, {"w_bit"}));
}

// 24 inputs in groups of 10 have as many groups as in groups of 8: only the metadata say which.
TEST(CodeLabels, NativeMetadataCountOverTheConfig) {
  for (const bool old : {true, false}) {
    TemporaryFolder folder;
    Packed made("metal_marlin");
    if (!old)
      made.metadata = {{"metal_marlin.version", "2"}, {"metal_marlin.bits", "4"}, {"metal_marlin.tensors", "{}"}};
    made.metadata["metal_marlin.group_size"] = "8";
    EXPECT_TRUE(made.open(folder)->warnings().empty());
    made.config["quantization_config"]["group_size"] = 10;
    made.config["quantization_config"]["bits"] = 8;
    const auto source = made.open(folder);
    EXPECT_TRUE(warns(
        *source, {"config.json: quantization_config.group_size is 10, but 8", "model.safetensors", "which counts"}));
    EXPECT_TRUE(warns(*source, {"quantization_config.bits is 8, but 4"}));
    const QuantizedTensor& q = made.codes.at(kDown + ".weight");
    const Matrix m = source->load(kDown + ".weight");
    for (int64_t i = 0; i < m.size(); ++i)
      ASSERT_EQ(m.data()[i], 0.5F * static_cast<float>(int{q.codes[static_cast<size_t>(i)]} - 8));
    EXPECT_EQ(source->load_codes(kDown + ".weight")->tensor.group_size, 8);
    for (const char* wrong : {"0", "-2", "eight", "4294967296", "18446744073709551615", "1.5", "[8]"}) {
      made.metadata["metal_marlin.group_size"] = wrong;
      check_error(expect<FormatError>({"model.safetensors", "metal_marlin.group_size"}), [&] { made.open(folder); });
    }
  }
}

TEST(CodeLabels, ArchitecturesOfAnotherModelAreSaid) {
  const auto open = [](const TemporaryFolder& folder, const json& architectures) {
    json config = small_config();
    config["architectures"] = architectures;
    test::write_small_model(folder, config);
    return ModelSource::open(folder.path(""));
  };
  for (const char* other : {"MixtralForCausalLM", "LlamaMoeForCausalLM", "LlamaForCausalLMEagle3", "Llama"}) {
    TemporaryFolder folder;
    const auto source = open(folder, {other});
    EXPECT_TRUE(warns(*source, {"config.json: architectures is", other, "model_type counts"})) << other;
    EXPECT_EQ(source->family().name, "llama");
  }
  for (const json& own : {json{"LlamaForCausalLM"}, json{"LlamaModel"}, json{"LlamaForSequenceClassification"},
                          json{"OtherForCausalLM", "LlamaForCausalLM"}, json::array(), json()}) {
    TemporaryFolder folder;
    EXPECT_TRUE(open(folder, own)->warnings().empty()) << own;
  }
}

}  // namespace
}  // namespace metal_marlin

// convert --to f16: every value is the source's, rounded once to float16; names and layout are Hugging Face's.
#include <gtest/gtest.h>
#include <metal_marlin/convert.h>
#include <metal_marlin/error.h>
#include <metal_marlin/quantize.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "checkpoint/model_source.h"
#include "core/files/atomic_file.h"
#include "core/half.h"
#include "formats/safetensors.h"
#include "formats/support.h"

namespace metal_marlin {
namespace {

using nlohmann::json;
using test::TemporaryFolder;

const std::string kModels = std::string(TEST_DATA) + "/models/";

// Every tensor of `converted` is stored in F16 and equals that of `source`, rounded.
void expect_rounded(const std::string& from, const std::string& folder) {
  const auto source = ModelSource::open(from);
  const auto converted = ModelSource::open(folder);
  converted->check();
  EXPECT_FALSE(converted->quantized());
  EXPECT_FALSE(converted->config_json().contains("quantization_config"));
  size_t count = 0;
  for (const CheckpointTensor& tensor : source->tensors()) {
    const Matrix expected = source->load(tensor.name);
    const Matrix found = converted->load(tensor.name);
    ASSERT_EQ(expected.values().size(), found.values().size()) << tensor.name;
    for (size_t i = 0; i < expected.values().size(); ++i) {
      ASSERT_EQ(f16_to_f32(f32_to_f16(expected.values()[i])), found.values()[i]) << tensor.name << " " << i;
    }
    ++count;
  }
  EXPECT_EQ(count, converted->tensors().size());
  for (const CheckpointTensor& tensor : converted->tensors()) EXPECT_EQ(tensor.stored_as, "F16") << tensor.name;
}

TEST(ConvertToFloat16, GgufBecomesAFolder) {
  for (const char* name : {"llama.gguf", "qwen2.gguf", "phi3.gguf", "gemma3.gguf"}) {
    SCOPED_TRACE(name);
    const TemporaryFolder folder;
    const std::string from = kModels + "gguf/" + name;
    const ConvertResult result = convert_model(from, folder.path("out"), {.to = "f16"});
    EXPECT_EQ(result.from, "gguf");
    EXPECT_EQ(result.linears, 0U);
    EXPECT_FALSE(result.bits);
    EXPECT_TRUE(json::parse(result.to_json())["bits"].is_null());
    expect_rounded(from, folder.path("out"));
    EXPECT_TRUE(std::filesystem::exists(folder.path("out/tokenizer.json")));
    EXPECT_NE(render_conversion(result).find("gguf -> f16"), std::string::npos);
  }
}

TEST(ConvertToFloat16, CodesBecomeTheirValues) {
  const TemporaryFolder folder;
  QuantizeOptions options;
  options.method = Method::kRtn;
  options.formats = {"native", "gptq_v2"};
  options.group_size = 8;
  options.evaluation.text = "none";
  options.calibration.calibration = {"builtin"};
  options.calibration.samples = 4;
  options.calibration.sequence_length = 32;
  quantize_model(kModels + "llama", folder.path("quantized"), options);
  for (const char* format : {"native", "gptq_v2"}) {
    const std::string from = folder.path(std::string("quantized/") + format);
    convert_model(from, folder.path(std::string(format) + "-f16"), {.to = "f16"});
    expect_rounded(from, folder.path(std::string(format) + "-f16"));
  }
}

TEST(ConvertToFloat16, AFloat16FolderIsRewrittenAsItIs) {
  const TemporaryFolder folder;
  convert_model(kModels + "gguf/llama.gguf", folder.path("out"), {.to = "f16"});
  convert_model(folder.path("out"), folder.path("again"), {.to = "f16"});
  EXPECT_EQ(read_text_file(folder.path("again/model.safetensors")),
            read_text_file(folder.path("out/model.safetensors")));
}

// A folder whose tensors are changed: the floats of each, by name.
void change(const std::string& from, const std::string& to, const std::map<std::string, std::vector<float>>& begins) {
  std::filesystem::copy(from, to, std::filesystem::copy_options::recursive);
  std::filesystem::remove(to + "/model.safetensors");
  const SafetensorsFile file(from + "/model.safetensors");
  std::vector<OwnedTensor> tensors;
  for (const TensorView& view : file.tensors()) {
    OwnedTensor t{view.name, view.dtype, view.shape, Buffer(view.bytes.size())};
    std::memcpy(t.bytes.data(), view.bytes.data(), view.bytes.size());
    if (const auto it = begins.find(view.name); it != begins.end()) {
      ASSERT_EQ(view.dtype, DType::kF32);
      std::memcpy(t.bytes.data(), it->second.data(), it->second.size() * sizeof(float));
    }
    tensors.push_back(std::move(t));
  }
  write_safetensors(to + "/model.safetensors", tensors, {});
}

bool any_with(const json& warnings, const std::vector<std::string>& parts) {
  return std::any_of(warnings.begin(), warnings.end(), [&](const json& w) {
    return std::all_of(parts.begin(), parts.end(),
                       [&](const auto& part) { return w.get<std::string>().find(part) != std::string::npos; });
  });
}

TEST(ConvertToFloat16, WhatBecomesZeroOrIsClampedIsSaid) {
  const TemporaryFolder folder;
  change(kModels + "llama", folder.path("model"),
         {{"model.norm.weight", {1e-9F, -1e-10F, 6e-8F}}, {"model.embed_tokens.weight", {1e-12F, 70000.0F, -1e6F}}});
  const json report = json::parse(convert_model(folder.path("model"), folder.path("out"), {.to = "f16"}).to_json());
  EXPECT_TRUE(any_with(report["warnings"], {"3 values that were not 0 became 0", "2 of model.norm.weight",
                                            "1 of model.embed_tokens.weight"}))
      << report["warnings"];
  EXPECT_TRUE(
      any_with(report["warnings"], {"model.embed_tokens.weight: 2 values exceed float16", "the largest is 1000000"}))
      << report["warnings"];
  QuantizeOptions options;
  options.method = Method::kRtn;
  options.formats = {"awq"};
  options.group_size = 8;
  options.evaluation.text = "none";
  const json run =
      json::parse(quantize_model(folder.path("model"), folder.path("quantized"), options).report.to_json());
  EXPECT_TRUE(any_with(run["warnings"], {"3 values that were not 0 became 0", "2 of model.norm.weight"}))
      << run["warnings"];
}

// Values that are made of codes may be too small as well.
TEST(ConvertToFloat16, WhatBecomesZeroOfCodesIsSaid) {
  const TemporaryFolder folder;
  QuantizeOptions options;
  options.method = Method::kRtn;
  options.formats = {"native"};
  options.group_size = 8;
  options.evaluation.text = "none";
  quantize_model(kModels + "llama", folder.path("native"), options);
  std::filesystem::copy(folder.path("native"), folder.path("small"), std::filesystem::copy_options::recursive);
  std::filesystem::remove(folder.path("small/model.awq.safetensors"));
  const std::string module = "model.layers.0.mlp.up_proj.weight";
  const SafetensorsFile file(folder.path("native/model.awq.safetensors"));
  std::vector<OwnedTensor> tensors;
  for (const TensorView& view : file.tensors()) {
    OwnedTensor t{view.name, view.dtype, view.shape, Buffer(view.bytes.size())};
    std::memcpy(t.bytes.data(), view.bytes.data(), view.bytes.size());
    // q_scale divides the weights: 65504 of it, with the smallest scales, makes them smaller than any float16.
    if (t.name == module + ".scales") std::fill_n(reinterpret_cast<uint16_t*>(t.bytes.data()), t.bytes.size() / 2, 1);
    tensors.push_back(std::move(t));
    if (view.name == module) {
      OwnedTensor scale{module + ".q_scale", DType::kF16, {32}, Buffer(64)};
      auto* bits = reinterpret_cast<uint16_t*>(scale.bytes.data());
      std::fill(bits, bits + 32, uint16_t{0x7bff});
      tensors.push_back(std::move(scale));
    }
  }
  write_safetensors(folder.path("small/model.awq.safetensors"), tensors, file.metadata());
  const auto source = ModelSource::open(folder.path("small"));
  const Matrix weight = source->load(module);
  const auto lost = std::count_if(weight.values().begin(), weight.values().end(),
                                  [](float v) { return v != 0 && (f32_to_f16(v) & 0x7fff) == 0; });
  ASSERT_GT(lost, 0);
  const json report = json::parse(convert_model(folder.path("small"), folder.path("out"), {.to = "f16"}).to_json());
  EXPECT_TRUE(any_with(report["warnings"], {std::to_string(lost) + " of " + module, "became 0"})) << report["warnings"];
}

}  // namespace
}  // namespace metal_marlin

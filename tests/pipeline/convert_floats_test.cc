// convert --to f16: every value is the source's, rounded once to float16; names and layout are Hugging Face's.
#include <gtest/gtest.h>
#include <metal_marlin/convert.h>
#include <metal_marlin/error.h>
#include <metal_marlin/quantize.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/atomic_file.h"
#include "core/half.h"
#include "formats/safetensors.h"
#include "formats/support.h"
#include "source/model_source.h"

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
    const json report = json::parse(convert_model(from, folder.path("out"), {.to = "f16"}).report_json);
    EXPECT_EQ(report["from"], "gguf");
    EXPECT_EQ(report["linears"], 0);
    EXPECT_TRUE(report["bits"].is_null());
    expect_rounded(from, folder.path("out"));
    EXPECT_TRUE(std::filesystem::exists(folder.path("out/tokenizer.json")));
    EXPECT_NE(render_conversion(report.dump()).find("gguf -> f16"), std::string::npos);
  }
}

TEST(ConvertToFloat16, CodesBecomeTheirValues) {
  const TemporaryFolder folder;
  QuantizeOptions options;
  options.method = "rtn";
  options.formats = {"native", "gptq_v2"};
  options.group_size = "8";
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

TEST(ConvertToFloat16, AFloat16FolderIsRefused) {
  const TemporaryFolder folder;
  convert_model(kModels + "gguf/llama.gguf", folder.path("out"), {.to = "f16"});
  try {
    convert_model(folder.path("out"), folder.path("again"), {.to = "f16"});
    FAIL();
  } catch (const UnsupportedError& e) {
    EXPECT_NE(std::string(e.what()).find("is in float16 already"), std::string::npos) << e.what();
  }
  EXPECT_FALSE(std::filesystem::exists(folder.path("again")));
}

}  // namespace
}  // namespace metal_marlin

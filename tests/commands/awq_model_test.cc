// Files of tensors without a config: what tests/test_awq.py does not reach.
#include <gtest/gtest.h>
#include <metal_marlin/awq.h>
#include <metal_marlin/error.h>
#include <unistd.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/random.h"
#include "formats/npz.h"
#include "formats/safetensors.h"
#include "layouts/native.h"

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;

class AwqModel : public testing::Test {
 protected:
  AwqModel() : folder_(fs::path(testing::TempDir()) / ("awq_model" + std::to_string(getpid()))) {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  ~AwqModel() override { fs::remove_all(folder_); }
  std::string path(const char* name) const { return (folder_ / name).string(); }

  TensorView tensor(const std::string& name, std::vector<int64_t> shape) {
    std::vector<float>& values = values_.emplace_back();
    Random random(values_.size());
    for (int64_t i = 0; i < shape[0] * shape[1]; ++i) values.push_back(static_cast<float>(random.normal()));
    return {name, DType::kF32, std::move(shape), std::as_bytes(std::span(values))};
  }

  fs::path folder_;
  std::vector<std::vector<float>> values_;
};

// The file says of itself what the native writer would say of such linears.
TEST_F(AwqModel, HasTheMetadataOfTheNativeWriter) {
  const std::vector<TensorView> tensors = {tensor("a.q_proj.weight", {16, 64}), tensor("odd_weight_name", {24, 64}),
                                           tensor("a.mlp.router.layer.weight", {8, 64}),
                                           tensor("a.up_proj.weight", {16, 48})};
  write_safetensors(path("m.safetensors"), tensors);
  const std::vector<TensorView> inputs = {tensor("a.q_proj", {50, 64}), tensor("odd_weight_name", {50, 64}),
                                          tensor("a.mlp.router.layer", {50, 64}), tensor("a.up_proj", {50, 48})};
  write_npz(path("x.npz"), inputs);
  std::vector<std::string> warnings;
  Observer observer;
  observer.on_warning = [&](const std::string& text) { warnings.push_back(text); };
  const AWQModelStats stats =
      awq_quantize_model(path("m.safetensors"), path("out"), path("x.npz"), 32, 0.01, "rms", "asym", observer);
  EXPECT_EQ(stats.quantized_count, 2);
  const std::map<std::string, std::string> skipped(stats.skipped.begin(), stats.skipped.end());
  EXPECT_EQ(skipped.at("a.mlp.router.layer.weight"), "a router");
  EXPECT_EQ(skipped.at("a.up_proj.weight"), "a.up_proj.weight: in_features 48 is not a multiple of the group size 32");
  EXPECT_EQ(warnings.size(), 1u);

  const SafetensorsFile file(path("out/m.awq.safetensors"));
  LayoutPlan plan;
  plan.group_size = 32;
  plan.symmetric = false;
  for (const char* name : {"a.q_proj.weight", "odd_weight_name"}) {
    QuantizedLinear& linear = plan.quantized.emplace_back();
    linear.name = name;
    linear.out_features = file.get(name).shape.at(1);
    linear.in_features = 64;
    linear.group_size = 32;
    for (const char* part : {"", ".scales", ".zeros", ".q_scale"})
      EXPECT_NE(file.find(std::string(name) + part), nullptr);
  }
  EXPECT_EQ(file.metadata(), native_metadata(plan, true));
  const auto described = nlohmann::json::parse(file.metadata().at("metal_marlin.tensors"));
  EXPECT_EQ(described.at("odd_weight_name"),
            (nlohmann::json{{"in_features", 64}, {"out_features", 24}, {"q_scale", "stored"}}));
  EXPECT_EQ(file.metadata().at("metal_marlin.version"), "1");
  EXPECT_EQ(awq_load(path("out/m.awq.safetensors")).size(), 2u);
}

}  // namespace
}  // namespace metal_marlin

#include <gtest/gtest.h>
#include <metal_marlin/error.h>
#include <metal_marlin/inspect.h>
#include <metal_marlin/quantize.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

std::string model(const std::string& name) {
  return std::string(TEST_DATA) + "/models/" + name;
}

TEST(Compare, AModelAndItselfDoNotDiffer) {
  for (const char* name : {"llama", "gemma2", "phi3"}) {
    const json j = json::parse(compare_models(model(name), model(name)));
    EXPECT_LT(j["relative_error"].get<double>(), 1e-6);  // rows are rescaled by a factor of 1 up to rounding
    EXPECT_TRUE(j["only_in_a"].empty());
    EXPECT_FALSE(render_comparison(j.dump()).empty());
  }
}

// Folded scales must not count as errors: what is left equals the weight errors that the run reported.
TEST(Compare, FoldedScalesAreUndone) {
  const fs::path folder = fs::temp_directory_path() / ("compare_test_" + std::to_string(getpid()));
  fs::create_directories(folder);
  std::ofstream text(folder / "text.txt");
  for (int i = 0; i < 3000; ++i) text << "some words of a text " << i % 7 << " and more\n";
  text.close();
  for (const char* name : {"llama", "phi3", "gemma2", "qwen2"}) {
    QuantizeOptions o;
    o.method = "awq-paper";
    o.group_size = "8";
    o.calibration.calibration = {(folder / "text.txt").string()};
    o.calibration.samples = 8;
    o.calibration.sequence_length = 64;
    o.evaluation.text = "none";
    const std::string out = (folder / name).string();
    const json report = json::parse(quantize_model(model(name), out, o).report.to_json());
    const json j = json::parse(compare_models(model(name), out));
    EXPECT_GT(j["relative_error"].get<double>(), 0.01);
    std::map<std::string, double> compared;
    for (const json& t : j["tensors"]) compared[t["name"].get<std::string>()] = t["relative_error"].get<double>();
    for (const json& l : report["linears"]) {
      const auto linear = l["name"].get<std::string>();
      ASSERT_EQ(compared.count(linear), 1U) << linear;
      // Norms without a scale are rounded to float16 when they are written, after the report was made.
      constexpr double kTolerance = 2e-3;
      EXPECT_NEAR(l["weight_error"].get<double>(), compared[linear], kTolerance * compared[linear]) << name << linear;
    }
  }
  fs::remove_all(folder);
}

TEST(Compare, RefusesTwoDifferentModels) {
  EXPECT_THROW(compare_models(model("llama"), model("gemma3")), Error);
  EXPECT_THROW(compare_models(model("llama"), model("phi3")), Error);
}

}  // namespace
}  // namespace metal_marlin

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

std::string model(const std::string& name) {
  return std::string(TEST_DATA) + "/models/" + name;
}

TEST(Compare, AModelAndItselfDoNotDiffer) {
  for (const char* name : {"llama", "gemma2", "phi3"}) {
    const Comparison c = compare_models(model(name), model(name));
    EXPECT_LT(c.relative_error, 1e-6);  // rows are rescaled by a factor of 1 up to rounding
    EXPECT_TRUE(c.only_in_a.empty());
    EXPECT_FALSE(render_comparison(c).empty());
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
    o.method = Method::kAwqPaper;
    o.group_size = 8;
    o.calibration.calibration = {(folder / "text.txt").string()};
    o.calibration.samples = 8;
    o.calibration.sequence_length = 64;
    o.evaluation.text = "none";
    const std::string out = (folder / name).string();
    const Report report = quantize_model(model(name), out, o).report;
    const Comparison c = compare_models(model(name), out);
    EXPECT_GT(c.relative_error, 0.01);
    std::map<std::string, double> compared;
    for (const ComparedTensor& t : c.tensors) compared[t.name] = t.relative_error;
    for (const LinearRecord& l : report.linears) {
      ASSERT_EQ(compared.count(l.name), 1U) << l.name;
      // Norms without a scale are rounded to float16 when they are written, after the report was made.
      constexpr double kTolerance = 2e-3;
      EXPECT_NEAR(l.weight_error, compared[l.name], kTolerance * compared[l.name]) << name << l.name;
    }
  }
  fs::remove_all(folder);
}

// The order of the keys and the types, as 0.2.0 had them when this was built as JSON.
TEST(Compare, TheJsonStays) {
  Comparison c;
  c.a = "A";
  c.b = "B";
  c.relative_error = 0.5;
  c.layers = {{0, 0.25, 1}};
  c.tensors = {{"x", {2, 3}, 0, 1, {"F32", "awq"}}};
  c.only_in_b = {"y"};
  EXPECT_EQ(nlohmann::ordered_json::parse(c.to_json()).dump(),
            R"({"a":"A","b":"B","relative_error":0.5,"layers":[{"layer":0,"relative_error":0.25,"max_error":1.0}],)"
            R"("tensors":[{"name":"x","shape":[2,3],"relative_error":0.0,"max_error":1.0,"stored_as":["F32","awq"]}],)"
            R"("only_in_a":[],"only_in_b":["y"],"warnings":[]})");
}

TEST(Compare, RefusesTwoDifferentModels) {
  EXPECT_THROW(compare_models(model("llama"), model("gemma3")), Error);
  EXPECT_THROW(compare_models(model("llama"), model("phi3")), Error);
}

}  // namespace
}  // namespace metal_marlin

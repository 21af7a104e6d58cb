#include <gtest/gtest.h>

#include <metal_marlin/inspect.h>
#include <cmath>

#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "core/files/atomic_file.h"
#include "formats/safetensors.h"
#include "report/size.h"

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

std::string model(const std::string& name) {
  return std::string(TEST_DATA) + "/models/" + name;
}

// Counted by hand from the shapes: hidden 32, feed-forward 40, 4 heads and 2 key-value heads of 8, vocabulary 96, two
// layers, a head of its own, f32.
TEST(Inspect, CountsWhatIsThere) {
  const Inspection i = inspect_model(model("llama"));
  const int64_t block = 32 * 32 + 2 * 16 * 32 + 32 * 32 + 3 * 40 * 32 + 2 * 32;
  const int64_t parameters = 2 * block + 2 * 96 * 32 + 32;
  EXPECT_EQ(i.parameters, static_cast<uint64_t>(parameters));
  EXPECT_EQ(i.bytes, static_cast<uint64_t>(4 * parameters));
  EXPECT_EQ(i.bits_per_weight, 32.0);
  EXPECT_EQ(i.linears, 14U);
  EXPECT_EQ(i.family, "llama");
  EXPECT_EQ(i.format, "safetensors");
  EXPECT_EQ(i.config.num_hidden_layers, 2);
  ASSERT_EQ(i.stored_as.size(), 1U);
  EXPECT_EQ(i.stored_as.at("F32").tensors, 21U);
  EXPECT_EQ(i.stored_as.at("F32").bytes, static_cast<uint64_t>(4 * parameters));
  EXPECT_EQ(i.tensors.value().size(), 21U);
  EXPECT_FALSE(i.grids);
  EXPECT_FALSE(i.quantization);
  std::map<std::string, int> reasons;
  for (const SkippedRecord& s : i.skipped) ++reasons[s.reason];
  EXPECT_EQ(reasons, (std::map<std::string, int>{{"embedding", 1}, {"head", 1}, {"norm or bias", 5}}));
  EXPECT_FALSE(json::parse(inspect_model(model("llama"), false).to_json()).contains("tensors"));
}

// The JSON of 0.2.0, where it was no record yet, to the byte.
TEST(Inspect, TheJsonStays) {
  const std::string expected = read_text_file(std::string(TEST_DATA) + "/report/inspection.json");
  Inspection i = inspect_model(model("llama"));
  i.path = "llama";
  EXPECT_EQ(i.to_json() + "\n", expected);
}

// Fused weights are one linear each; f16 has half the bytes; the head is tied.
TEST(Inspect, CountsFusedAndTiedModels) {
  EXPECT_EQ(inspect_model(model("phi3")).linears, 2U * 4U);
  const Inspection tied = inspect_model(model("llama-llama3"));
  EXPECT_EQ(tied.bits_per_weight, 16.0);
  for (const SkippedRecord& s : tied.skipped) EXPECT_NE(s.reason, "head");
}

TEST(Inspect, SaysWhereTheTokenizerIsNotTheModels) {
  const fs::path folder = fs::temp_directory_path() / ("inspect_tokenizer_test_" + std::to_string(getpid()));
  fs::remove_all(folder);
  fs::copy(model("llama"), folder);
  EXPECT_TRUE(inspect_model(folder.string()).warnings.empty());
  std::ofstream(folder / "added_tokens.json") << R"({"<one>": 96})";
  const std::vector<std::string> warnings = inspect_model(folder.string()).warnings;
  ASSERT_EQ(warnings.size(), 1U);
  EXPECT_NE(
      warnings[0].find(
          "added_tokens.json: adds \"<one>\" with the id 96 to the 96 tokens of tokenizer.json, vocab_size is 96"),
      std::string::npos)
      << warnings[0];
  std::ofstream(folder / "added_tokens.json") << R"({"</s>": 90})";  // a warning of the tokenizer's own
  EXPECT_EQ(inspect_model(folder.string()).warnings.size(), 1U);
  for (const char* name : {"added_tokens.json", "tokenizer.json"}) fs::remove(folder / name);
  EXPECT_TRUE(inspect_model(folder.string()).warnings.empty());  // none at all
  fs::remove_all(folder);
}

TEST(Inspect, ListsWhatIsNotOfTheModelOnceEach) {
  const fs::path folder = fs::temp_directory_path() / ("inspect_test_" + std::to_string(getpid()));
  fs::remove_all(folder);
  fs::copy(model("llama"), folder);
  json config = json::parse(read_text_file((folder / "config.json").string()));
  config["num_hidden_layers"] = 1;
  std::ofstream(folder / "config.json") << config.dump();
  const Inspection i = inspect_model(folder.string());
  std::set<std::string> surplus;
  for (const SkippedRecord& s : i.skipped) {
    if (s.reason.find("layer 1, but the config has num_hidden_layers 1") == std::string::npos) continue;
    EXPECT_TRUE(surplus.insert(s.name).second) << s.name;
  }
  EXPECT_EQ(surplus.size(), 9U);
  EXPECT_EQ(i.tensors.value().size(), 12U);
  const std::string text = render_inspection(i);
  EXPECT_NE(text.find("num_hidden_layers 1: not part of the model (9): model.layers.1."), std::string::npos) << text;
  EXPECT_EQ(text.find("0.0 MB"), std::string::npos) << text;
  fs::remove_all(folder);
}

TEST(SizeText, LargeAmountsHaveLargeUnits) {
  EXPECT_EQ(memory_text(1536), "1.5 KiB");
  EXPECT_EQ(memory_text(uint64_t{700} << 20), "700 MiB");
  EXPECT_EQ(memory_text(uint64_t{123456} << 20), "120.6 GiB");
  EXPECT_EQ(memory_text(uint64_t{3} << 40), "3.0 TiB");
  EXPECT_EQ(duration_text(0.04), "0.0 s");
  EXPECT_EQ(duration_text(4.26), "4.3 s");
  EXPECT_EQ(duration_text(59.4), "59 s");
  EXPECT_EQ(duration_text(59.6), "1 min 00 s");
  EXPECT_EQ(duration_text(3599.6), "1 h 00 min");
  EXPECT_EQ(duration_text(5400), "1 h 30 min");
  EXPECT_EQ(duration_text(std::nan("")), "0 s");
}

TEST(SizeText, KeepsSmallSizesReadable) {
  EXPECT_EQ(size_text(0), "0 bytes");
  EXPECT_EQ(size_text(999), "999 bytes");
  EXPECT_EQ(size_text(13'440), "13.4 KB");
  EXPECT_EQ(size_text(98'500'000), "98.5 MB");
  EXPECT_EQ(size_text(4'920'000'000), "4.92 GB");
}

}  // namespace
}  // namespace metal_marlin

// A folder of its own with a text of small words, for tests that quantize the tiny models of TEST_DATA.
#pragma once

#include <gtest/gtest.h>
#include <metal_marlin/quantize.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "core/random.h"

namespace metal_marlin {

class ModelRunTest : public testing::Test {
 protected:
  void SetUp() override {
    const std::string suite = testing::UnitTest::GetInstance()->current_test_info()->test_suite_name();
    folder_ =
        std::filesystem::temp_directory_path() / (suite.substr(suite.find('/') + 1) + "_" + std::to_string(getpid()));
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    std::ofstream text(folder_ / "text.txt");
    Random random(11);
    const char* words[] = {"the", "model", "of",  "weights", "is", "small", "and",
                           "a",   "test",  "for", "code",    "in", "bits"};
    for (int i = 0; i < 9000; ++i) text << words[random.below(13)] << (i % 17 == 16 ? ".\n" : " ");
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  // Native, in groups of 8, which divide 32 and 40; calibrated on 16 sequences of 64 tokens.
  QuantizeOptions tiny_options() const {
    QuantizeOptions o;
    o.formats = {"native"};
    o.group_size = 8;
    o.calibration.calibration = {(folder_ / "text.txt").string()};
    o.calibration.samples = 16;
    o.calibration.sequence_length = 64;
    return o;
  }
  void evaluate_on_text(QuantizeOptions& o, int64_t chunks = 8) const {
    o.evaluation.text = (folder_ / "text.txt").string();
    o.evaluation.chunks = chunks;
    o.evaluation.context = 64;
  }
  static std::string model(const std::string& name = "llama") { return std::string(TEST_DATA) + "/models/" + name; }
  std::string out(const std::string& name) const { return (folder_ / name).string(); }

  std::filesystem::path folder_;
};

}  // namespace metal_marlin

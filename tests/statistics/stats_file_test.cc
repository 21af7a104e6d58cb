#include "statistics/stats_file.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "core/files/digest.h"
#include "core/random.h"
#include "statistics/model_identity.h"

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;

OwnedTensor array(const std::string& name, std::vector<int64_t> shape, uint64_t seed, double scale = 1) {
  int64_t n = 1;
  for (const int64_t d : shape) n *= d;
  OwnedTensor t{name, DType::kF32, std::move(shape), Buffer(static_cast<size_t>(n) * sizeof(float))};
  Random random(seed);
  auto* values = reinterpret_cast<float*>(t.bytes.data());
  for (int64_t i = 0; i < n; ++i) values[i] = static_cast<float>(std::fabs(random.normal()) * scale);
  return t;
}

class StatsFileTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("stats_file_test_" + std::to_string(getpid()));
    fs::create_directories(folder_);
    source_ = ModelSource::open(std::string(TEST_DATA) + "/models/llama");  // 2 layers, hidden 32, feed-forward 40
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::vector<OwnedTensor> statistics(bool gram = true) const {
    std::vector<OwnedTensor> out;
    for (int64_t layer = 0; layer < 2; ++layer) {
      std::array<ActivationStats, kLinearInputs> stats;
      for (size_t t = 0; t < kLinearInputs; ++t) {
        ActivationStats& s = stats[t];
        s.in_features = t == static_cast<size_t>(LinearInput::kDown) ? 40 : 32;
        s.tokens = 20'000'001;  // no float32 holds it
        for (int64_t k = 0; k < s.in_features; ++k) {
          s.mean.push_back(static_cast<float>(k + 1));
          s.max.push_back(static_cast<float>(2 * k + 1));
          s.rms.push_back(static_cast<float>(k + 2));
        }
        if (gram) {
          s.gram = Matrix(s.in_features, s.in_features);
          for (int64_t k = 0; k < s.in_features; ++k) s.gram(k, k) = static_cast<float>(100 * layer + k);
        }
      }
      for (OwnedTensor& a : stats_arrays(layer, stats)) out.push_back(std::move(a));
    }
    return out;
  }
  std::vector<OwnedTensor> raw(const std::string& suffix) const {
    std::vector<OwnedTensor> out;
    for (int64_t layer = 0; layer < 2; ++layer) {
      const std::string prefix = "model.layers." + std::to_string(layer) + ".";
      for (const char* name : {"self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj"}) {
        const bool down = std::string(name) == "mlp.down_proj";
        out.push_back(array(prefix + name + suffix, {3, 7, down ? 40 : 32}, static_cast<uint64_t>(layer + 1)));
      }
    }
    return out;
  }
  std::string write(const std::vector<OwnedTensor>& arrays) const {
    const std::string path = (folder_ / "s.npz").string();
    write_npz(path, arrays);
    return path;
  }
  // The message with which the file is refused.
  std::string refusal(const std::vector<OwnedTensor>& arrays, bool gram = true) const {
    const std::string path = write(arrays);
    try {
      const StatsFile file(path, *source_, gram);
      file.load(1);
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(path), std::string::npos) << e.what();
      return e.what();
    }
    return "taken";
  }

  fs::path folder_;
  std::unique_ptr<ModelSource> source_;
};

TEST_F(StatsFileTest, StatisticsComeBackAsTheyWere) {
  const StatsFile file(write(statistics()), *source_);
  EXPECT_FALSE(file.raw());
  EXPECT_EQ(file.tokens(), 20'000'001U);
  for (int64_t layer = 0; layer < 2; ++layer) {
    const auto stats = file.load(layer);
    for (size_t t = 0; t < kLinearInputs; ++t) {
      const int64_t width = t == static_cast<size_t>(LinearInput::kDown) ? 40 : 32;
      ASSERT_EQ(stats[t].in_features, width);
      EXPECT_EQ(stats[t].tokens, 20'000'001U);
      for (int64_t k = 0; k < width; ++k) {
        EXPECT_EQ(stats[t].mean[static_cast<size_t>(k)], static_cast<float>(k + 1));
        EXPECT_EQ(stats[t].max[static_cast<size_t>(k)], static_cast<float>(2 * k + 1));
        EXPECT_EQ(stats[t].rms[static_cast<size_t>(k)], static_cast<float>(k + 2));
        EXPECT_EQ(stats[t].gram(k, k), static_cast<float>(100 * layer + k));
      }
    }
  }
}

TEST_F(StatsFileTest, RawActivationsAreSummedUp) {
  for (const std::string suffix : {"", ".weight"}) {
    const auto arrays = raw(suffix);
    const StatsFile file(write(arrays), *source_);
    EXPECT_TRUE(file.raw());
    EXPECT_EQ(file.tokens(), 21U);
    const auto all = file.load(0);
    const ActivationStats& stats = all[static_cast<size_t>(LinearInput::kDown)];
    const auto* x = reinterpret_cast<const float*>(arrays[3].bytes.data());
    for (int64_t k = 0; k < 40; ++k) {
      double sum = 0;
      double square = 0;
      for (int64_t r = 0; r < 21; ++r) {
        sum += std::fabs(static_cast<double>(x[r * 40 + k]));
        square += static_cast<double>(x[r * 40 + k]) * x[r * 40 + k];
      }
      EXPECT_NEAR(stats.mean[static_cast<size_t>(k)], sum / 21, 1e-6 * sum);
      EXPECT_NEAR(stats.gram(k, k), square / 21, 1e-5 * square / 21);
    }
  }
}

TEST_F(StatsFileTest, FirstRowsComeBackWhereEveryInputHasThem) {
  EXPECT_FALSE(StatsFile(write(statistics()), *source_).first_rows());
  auto arrays = statistics();
  for (int layer = 0; layer < 2; ++layer) {
    for (const char* input : {"qkv", "o", "gate_up", "down"}) {
      arrays.push_back(array("layers." + std::to_string(layer) + "." + input + ".first",
                             {3, std::string(input) == "down" ? 40 : 32}, 5));
    }
  }
  const StatsFile file(write(arrays), *source_);
  EXPECT_TRUE(file.first_rows());
  const auto stats = file.load(1);
  ASSERT_EQ(stats[2].first_rows.rows(), 3);
  const auto* expected = reinterpret_cast<const float*>(arrays[arrays.size() - 2].bytes.data());
  for (int64_t i = 0; i < 3 * 32; ++i) EXPECT_EQ(stats[2].first_rows.data()[i], expected[i]);
  // Its own arrays give the same file again.
  EXPECT_EQ(stats_arrays(1, stats)[5].name, "layers.1.qkv.first");
  arrays.back() = array("layers.1.down.first", {3, 39}, 5);
  EXPECT_NE(refusal(arrays).find("[sequences, 40]"), std::string::npos);
  arrays.back() = array("layers.1.down.first", {3, 40}, 5, INFINITY);
  EXPECT_NE(refusal(arrays).find("layers.1.down.first"), std::string::npos);
  // Raw activations tell where sequences begin when they have three dimensions.
  auto activations = raw("");
  const StatsFile whole(write(activations), *source_);
  EXPECT_TRUE(whole.first_rows());
  const auto sums = whole.load(0);
  const auto* x = reinterpret_cast<const float*>(activations[3].bytes.data());
  ASSERT_EQ(sums[3].first_rows.rows(), 3);
  for (int64_t i = 0; i < 3 * 40; ++i) EXPECT_EQ(sums[3].first_rows.data()[i], x[(i / 40) * 7 * 40 + i % 40]);
  activations.back() = array("model.layers.1.mlp.down_proj", {21, 40}, 1);
  EXPECT_FALSE(StatsFile(write(activations), *source_).first_rows());
}

TEST_F(StatsFileTest, WhatIsMissingOrWrongIsNamed) {
  const auto without = [&](const std::string& key) {
    std::vector<OwnedTensor> out;
    for (OwnedTensor& a : statistics()) {
      if (a.name != key) out.push_back(std::move(a));
    }
    return out;
  };
  for (const std::string key :
       {"layers.1.o.mean", "layers.0.down.max", "layers.1.qkv.rms", "layers.1.gate_up.gram", "layers.1.down.tokens"}) {
    EXPECT_NE(refusal(without(key)).find(key), std::string::npos) << key;
  }
  auto arrays = without("layers.1.o.mean");
  arrays.push_back(array("layers.1.o.mean", {31}, 1));
  EXPECT_NE(refusal(arrays).find("[32]"), std::string::npos);
  arrays = without("layers.1.o.mean");
  arrays.push_back(array("layers.1.o.mean", {32}, 1, std::nan("")));
  EXPECT_NE(refusal(arrays).find("layers.1.o.mean"), std::string::npos);
  arrays = without("layers.0.qkv.tokens");
  arrays.push_back(array("layers.0.qkv.tokens", {2}, 1));
  EXPECT_NE(refusal(arrays).find("layers.0.qkv.tokens"), std::string::npos);
  arrays = without("layers.0.qkv.tokens");
  arrays.push_back(array("layers.0.qkv.tokens", {1}, 0));
  EXPECT_NE(refusal(arrays).find("layers.0.qkv.tokens: expected a count of tokens, found 0"), std::string::npos);
  EXPECT_NE(refusal(statistics(false)).find("--no-gram"), std::string::npos);
  EXPECT_EQ(refusal(statistics(false), false), "taken");
  auto activations = raw("");
  activations.pop_back();
  EXPECT_NE(refusal(activations).find("model.layers.1.mlp.down_proj"), std::string::npos);
  activations.push_back(array("model.layers.1.mlp.down_proj", {21, 39}, 1));
  EXPECT_NE(refusal(activations).find("40"), std::string::npos);
}

TEST_F(StatsFileTest, OfAnotherModelIsRefusedWithBothNames) {
  auto arrays = statistics();
  arrays.push_back(identity_array(identify_model(*source_)));
  EXPECT_EQ(refusal(arrays), "taken");
  const auto other = ModelSource::open(std::string(TEST_DATA) + "/models/qwen3");
  arrays.pop_back();
  arrays.push_back(identity_array(identify_model(*other)));
  const std::string message = refusal(arrays);
  EXPECT_NE(message.find("llama (llama, 2 layers, hidden 32"), std::string::npos) << message;
  EXPECT_NE(message.find("qwen3 (qwen3"), std::string::npos) << message;
  for (const std::string text :
       {"", "[]", "{\"name\": 1}", "{\"name\": \"a\", \"family\": \"b\", \"digest\": \"c\"}", "\xff"}) {
    OwnedTensor broken = identity_array(identify_model(*source_));
    broken.shape = {static_cast<int64_t>(text.size())};
    broken.bytes = Buffer(text.size());
    if (!text.empty()) std::memcpy(broken.bytes.data(), text.data(), text.size());
    arrays.pop_back();
    arrays.push_back(std::move(broken));
    EXPECT_NE(refusal(arrays).find("metal_marlin.model"), std::string::npos) << text;
  }
}

// Version 0.2 noted a digest of 64 bits by another function; c90acc0d1d52d578 is the one that it gave this model.
TEST_F(StatsFileTest, AnEarlierVersionsDigestIsStillCompared) {
  auto arrays = statistics();
  ModelIdentity noted = identify_model(*source_);
  EXPECT_EQ(noted.digest.size(), Digest::kDigits);
  noted.digest = "c90acc0d1d52d578";
  arrays.push_back(identity_array(noted));
  EXPECT_EQ(refusal(arrays), "taken");
  noted.digest = "c90acc0d1d52d579";
  arrays.back() = identity_array(noted);
  const std::string message = refusal(arrays);
  EXPECT_NE(message.find("digest c90acc0d1d52d578"), std::string::npos) << message;
  EXPECT_NE(message.find("digest c90acc0d1d52d579"), std::string::npos) << message;
  EXPECT_NE(message.find("calibrate this model"), std::string::npos) << message;
}

// The same values are the same model, whatever holds them; one changed weight among those sampled makes another.
TEST_F(StatsFileTest, AModelIsKnownByItsValues) {
  const std::string models = std::string(TEST_DATA) + "/models/";
  for (const std::string name : {"llama", "qwen2", "phi3", "gemma2"}) {
    const auto folder = identify_model(*ModelSource::open(models + name));
    const auto gguf = identify_model(*ModelSource::open(models + "gguf/" + name + ".gguf"));
    EXPECT_EQ(folder.digest, gguf.digest) << name;
    EXPECT_TRUE(folder.same_model(gguf)) << folder.text() << " " << gguf.text();
    EXPECT_EQ(gguf.name, name + ".gguf");
  }
  const std::string twin = (folder_ / "twin").string();
  fs::copy(models + "llama", twin);
  std::fstream weights(twin + "/model.safetensors", std::ios::in | std::ios::out | std::ios::binary);
  std::string bytes{std::istreambuf_iterator<char>(weights), {}};
  const Matrix row = source_->load("model.layers.1.mlp.down_proj.weight", 0, 1);
  const size_t at = bytes.find(std::string(reinterpret_cast<const char*>(row.data()), 16));
  ASSERT_NE(at, std::string::npos);
  weights.clear();
  weights.seekp(static_cast<std::streamoff>(at));
  const float value = 3;
  weights.write(reinterpret_cast<const char*>(&value), sizeof value);
  weights.close();
  EXPECT_FALSE(identify_model(*source_).same_model(identify_model(*ModelSource::open(twin))));
}

TEST_F(StatsFileTest, ANulByteDoesNotEndTheCalibration) {
  for (const std::string& text :
       {std::string("{}\0x", 4), std::string("{\"a\": 1\0}", 9), std::string("[]"), std::string()}) {
    std::vector<OwnedTensor> arrays = statistics();
    OwnedTensor array = calibration_array({});
    array.shape = {static_cast<int64_t>(text.size())};
    array.bytes = Buffer(text.size());
    if (!text.empty()) std::memcpy(array.bytes.data(), text.data(), text.size());
    arrays.push_back(std::move(array));
    EXPECT_NE(refusal(arrays).find("metal_marlin.calibration: expected the text of a JSON object"), std::string::npos);
  }
}

}  // namespace
}  // namespace metal_marlin

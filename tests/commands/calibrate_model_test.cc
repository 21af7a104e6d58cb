// The statistics that `calibrate` writes, read back and compared with transformers' inputs of the linears.
#include <gtest/gtest.h>
#include <metal_marlin/error.h>
#include <metal_marlin/quantize.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/files/atomic_file.h"
#include "formats/gguf.h"
#include "formats/gguf/gguf_write.h"
#include "formats/npz.h"
#include "formats/safetensors.h"
#include "statistics/stats_file.h"

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class CalibrateModelTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("calibrate_model_test_" + std::to_string(getpid()));
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    // The tiny Llama with words for ids, so that a text says the golden tokens.
    fs::copy(std::string(TEST_DATA) + "/models/llama", folder_ / "model");
    fs::remove(folder_ / "model" / "tokenizer_config.json");
    json vocabulary;
    for (int id = 0; id < 96; ++id) vocabulary["t" + std::to_string(id)] = id;
    const json tokenizer = {{"version", "1.0"},
                            {"truncation", nullptr},
                            {"padding", nullptr},
                            {"added_tokens", json::array()},
                            {"normalizer", nullptr},
                            {"pre_tokenizer", {{"type", "WhitespaceSplit"}}},
                            {"post_processor", nullptr},
                            {"decoder", nullptr},
                            {"model", {{"type", "WordLevel"}, {"vocab", vocabulary}, {"unk_token", "t0"}}}};
    std::ofstream(folder_ / "model" / "tokenizer.json") << tokenizer.dump();
    const SafetensorsFile golden(path("model/golden.safetensors"));
    const auto* ids = reinterpret_cast<const int32_t*>(golden.get("input_ids").bytes.data());
    std::ofstream text(folder_ / "text.txt");
    for (int i = 0; i < 48; ++i) text << "t" << ids[i] << " ";
    options_.calibration = {path("text.txt")};
    options_.samples = 2;
    options_.sequence_length = 24;
    machine_.precision = MatmulPrecision::kF32;
  }
  void TearDown() override { fs::remove_all(folder_); }
  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  static std::vector<float> values(const NpzFile& file, const std::string& name) {
    const OwnedTensor array = file.load(name);
    EXPECT_EQ(array.dtype, DType::kF32);
    const auto* p = reinterpret_cast<const float*>(array.bytes.data());
    return {p, p + array.bytes.size() / sizeof(float)};
  }

  fs::path folder_;
  CalibrationOptions options_;
  MachineOptions machine_;
};

TEST_F(CalibrateModelTest, AnImatrixOfAnotherModelOrWithOtherNumbersIsRefused) {
  calibrate_model(path("model"), path("imatrix.gguf"), options_, machine_);
  const auto source = ModelSource::open(path("model"));
  const auto refused = [&](const std::string& file, const std::string& text) {
    try {
      StatsFile(file, *source);
      ADD_FAILURE() << text;
    } catch (const FormatError& e) {
      EXPECT_NE(std::string(e.what()).find(file), std::string::npos);
      EXPECT_NE(std::string(e.what()).find(text), std::string::npos) << e.what();
    }
  };
  const GgufFile whole(path("imatrix.gguf"));
  // The file with one tensor in place of another.
  const auto written = [&](const std::string& changed, int64_t elements, float value, bool drop = false) {
    std::vector<GgufTensorInfo> tensors;
    for (const GgufTensor& t : whole.tensors()) {
      if (t.name == changed && drop) continue;
      tensors.push_back({t.name, t.type, t.shape});
      if (t.name == changed) tensors.back().shape = {1, elements};
    }
    const std::vector<GgufPair> pairs = {gguf_pair<std::string_view>("general.type", "imatrix")};
    GgufWriter file(path("damaged.gguf"), pairs, tensors);
    for (const GgufTensorInfo& t : tensors) {
      const std::vector<float> values(t.bytes() / sizeof(float), value);
      file.write(t.name, t.name == changed ? std::as_bytes(std::span(values)) : whole.get(t.name).bytes);
    }
    file.commit();
    return path("damaged.gguf");
  };
  refused(written("blk.1.attn_q.weight.in_sum2", 32, 1, true), "blk.1.attn_q.weight.in_sum2");
  refused(written("blk.1.attn_q.weight.in_sum2", 31, 1), "F32 of 32 values");
  refused(written("blk.0.ffn_down.weight.in_sum2", 40, -1), "sums of squares");
  refused(written("blk.0.ffn_down.weight.in_sum2", 40, INFINITY), "sums of squares");
  refused(written("blk.0.ffn_down.weight.counts", 1, 0), "a count of tokens");
  const std::vector<GgufPair> none = {gguf_pair<std::string_view>("general.architecture", "llama")};
  GgufWriter other(path("model.gguf"), none, {});
  other.commit();
  refused(path("model.gguf"), "expected llama.cpp's imatrix");
}

// The squares of the same inputs under llama.cpp's names.
TEST_F(CalibrateModelTest, AnImatrixHasTheSumsOfTheSquares) {
  calibrate_model(path("model"), path("stats.npz"), options_, machine_);
  calibrate_model(path("model"), path("imatrix.gguf"), options_, machine_);
  const NpzFile stats(path("stats.npz"));
  const GgufFile imatrix(path("imatrix.gguf"));
  EXPECT_EQ(imatrix.metadata().get_string("general.type"), "imatrix");
  EXPECT_EQ(imatrix.metadata().get_strings("imatrix.datasets"), std::vector<std::string>{"text.txt"});
  EXPECT_EQ(imatrix.metadata().get_u64("imatrix.chunk_count"), 2U);
  EXPECT_EQ(imatrix.metadata().get_u64("imatrix.chunk_size"), 24U);
  EXPECT_EQ(imatrix.tensors().size(), 2U * 2 * 7);
  const std::pair<const char*, const char*> inputs[] = {
      {"qkv", "attn_q"},       {"qkv", "attn_k"},     {"qkv", "attn_v"},   {"o", "attn_output"},
      {"gate_up", "ffn_gate"}, {"gate_up", "ffn_up"}, {"down", "ffn_down"}};
  for (const auto& [input, name] : inputs) {
    const std::vector<float> rms = values(stats, std::string("layers.1.") + input + ".rms");
    const GgufTensor& sums = imatrix.get(std::string("blk.1.") + name + ".weight.in_sum2");
    ASSERT_EQ(sums.shape, (std::vector<int64_t>{1, std::ssize(rms)}));
    std::vector<float> found(rms.size());
    dequantize_rows(sums, 0, 1, found.data());
    for (size_t k = 0; k < rms.size(); ++k) EXPECT_NEAR(found[k], rms[k] * rms[k] * 48, 1e-5 * found[k]);
    float tokens = 0;
    dequantize_rows(imatrix.get(std::string("blk.1.") + name + ".weight.counts"), 0, 1, &tokens);
    EXPECT_EQ(tokens, 48);
  }
  // Read back it is the diagonal of the same statistics.
  const auto source = ModelSource::open(path("model"));
  const StatsFile file(path("imatrix.gguf"), *source);
  EXPECT_TRUE(file.diagonal());
  EXPECT_FALSE(file.first_rows());
  EXPECT_EQ(file.tokens(), 48U);
  const auto layer = file.load(1);
  const ActivationStats& down = layer[static_cast<size_t>(LinearInput::kDown)];
  const std::vector<float> rms = values(stats, "layers.1.down.rms");
  for (size_t k = 0; k < rms.size(); ++k) {
    const auto i = static_cast<int64_t>(k);
    EXPECT_NEAR(down.rms[k], rms[k], 1e-5 * rms[k]);
    EXPECT_NEAR(down.gram(i, i), rms[k] * rms[k], 1e-5 * rms[k] * rms[k]);
    EXPECT_EQ(down.gram(i, (i + 1) % down.in_features), 0);
  }
  QuantizeOptions quantize;
  quantize.formats = {"native"};
  quantize.group_size = 8;
  quantize.evaluation.text = "none";
  quantize.calibration.calibration = {path("imatrix.gguf")};
  const Report report = quantize_model(path("model"), path("from-imatrix"), quantize).report;
  ASSERT_FALSE(report.warnings.empty());
  EXPECT_NE(report.warnings.front().find("an imatrix has the squares of the inputs alone"), std::string::npos);
  // It is known again, so that --overwrite replaces it and no other file of that ending.
  EXPECT_THROW(calibrate_model(path("model"), path("imatrix.gguf"), options_, machine_), ArgumentError);
  calibrate_model(path("model"), path("imatrix.gguf"), options_, machine_, true, false, {}, true);
  write_text_file(path("other.gguf"), "somebody's file");
  EXPECT_THROW(calibrate_model(path("model"), path("other.gguf"), options_, machine_, true, false, {}, true),
               ArgumentError);
}

TEST_F(CalibrateModelTest, StatisticsAreThoseOfTransformersInputs) {
  const CalibrateResult result = calibrate_model(path("model"), path("s.npz"), options_, machine_, true, true);
  EXPECT_EQ(result.sequences, 2);
  EXPECT_EQ(result.tokens, 48);
  const NpzFile file(path("s.npz"));
  const SafetensorsFile golden(path("model/golden.safetensors"));
  const std::pair<std::string, std::string> inputs[] = {
      {"qkv", "self_attn.q_proj"}, {"o", "self_attn.o_proj"}, {"gate_up", "mlp.gate_proj"}, {"down", "mlp.down_proj"}};
  for (const auto& [input, linear] : inputs) {
    const TensorView& x = golden.get("tap.model.layers.0." + linear);
    const auto* data = reinterpret_cast<const float*>(x.bytes.data());
    const int64_t width = x.shape.back();
    const std::string prefix = "layers.0." + input + ".";
    const auto mean = values(file, prefix + "mean");
    const auto max = values(file, prefix + "max");
    const auto rms = values(file, prefix + "rms");
    const auto gram = values(file, prefix + "gram");
    ASSERT_EQ(static_cast<int64_t>(mean.size()), width);
    double largest = 0;
    for (int64_t i = 0; i < 48 * width; ++i) largest = std::max(largest, std::fabs(static_cast<double>(data[i])));
    const double tolerance = 2e-5 * largest;  // both are float32, summed in another order
    for (int64_t k = 0; k < width; ++k) {
      double absolute = 0;
      double square = 0;
      double top = 0;
      for (int64_t r = 0; r < 48; ++r) {
        const double v = data[r * width + k];
        absolute += std::fabs(v) / 48;
        square += v * v / 48;
        top = std::max(top, std::fabs(v));
      }
      const auto i = static_cast<size_t>(k);
      EXPECT_NEAR(mean[i], absolute, tolerance) << input;
      EXPECT_NEAR(max[i], top, tolerance) << input;
      EXPECT_NEAR(rms[i], std::sqrt(square), tolerance) << input;
      for (int64_t m = 0; m < width; ++m) {
        double product = 0;
        for (int64_t r = 0; r < 48; ++r) product += static_cast<double>(data[r * width + k]) * data[r * width + m] / 48;
        EXPECT_NEAR(gram[static_cast<size_t>(k * width + m)], product, tolerance * largest) << input;
      }
    }
    const auto first = values(file, prefix + "first");  // of the two sequences
    ASSERT_EQ(static_cast<int64_t>(first.size()), 2 * width);
    for (int64_t i = 0; i < 2 * width; ++i) {
      EXPECT_NEAR(first[static_cast<size_t>(i)], data[(i / width) * 24 * width + i % width], tolerance) << input;
    }
    // The raw inputs, under the name of the first weight that has them.
    const OwnedTensor raw = file.load("model.layers.0." + linear + ".weight");
    EXPECT_EQ(raw.shape, (std::vector<int64_t>{2, 24, width}));
    const auto* kept = reinterpret_cast<const float*>(raw.bytes.data());
    for (int64_t i = 0; i < 48 * width; ++i) ASSERT_NEAR(kept[i], data[i], tolerance) << input << " " << i;
  }
  const OwnedTensor identity = file.load("metal_marlin.model");
  const json of = json::parse(std::string(reinterpret_cast<const char*>(identity.bytes.data()), identity.bytes.size()));
  EXPECT_EQ(of["family"], "llama");
  EXPECT_EQ(of["name"], "model");
  EXPECT_EQ(of["hidden_size"], 32);
  EXPECT_EQ(of["num_hidden_layers"], 2);
  EXPECT_EQ(of["vocab_size"], 96);
}

TEST_F(CalibrateModelTest, WithoutGramOrSpilledTheRestIsTheSame) {
  const std::string words = read_text_file(path("text.txt"));
  std::ofstream text(folder_ / "long.txt");
  for (int i = 0; i < 60; ++i) text << words;
  text.close();
  options_.calibration = {path("long.txt")};
  options_.samples = 120;
  calibrate_model(path("model"), path("a.npz"), options_, machine_, true, false);
  calibrate_model(path("model"), path("b.npz"), options_, machine_, false, false);
  machine_.memory_bytes = 1'000'000;  // less than thrice the states: they go to a scratch file
  calibrate_model(path("model"), path("c.npz"), options_, machine_, true, false);
  EXPECT_EQ(read_text_file(path("a.npz")), read_text_file(path("c.npz")));
  const NpzFile a(path("a.npz"));
  const NpzFile b(path("b.npz"));
  for (const std::string& name : a.names()) {
    EXPECT_EQ(b.contains(name), !name.ends_with(".gram") && !name.ends_with(".first")) << name;
    if (!b.contains(name)) continue;
    const OwnedTensor left = a.load(name);
    const OwnedTensor right = b.load(name);
    ASSERT_EQ(left.bytes.size(), right.bytes.size());
    EXPECT_EQ(std::memcmp(left.bytes.data(), right.bytes.data(), left.bytes.size()), 0) << name;
  }
}

TEST_F(CalibrateModelTest, ABudgetOfAFewBytesWasMeantInAnotherUnit) {
  machine_.memory_bytes = 4;
  try {
    calibrate_model(path("model"), path("a.npz"), options_, machine_, true, false);
    ADD_FAILURE() << "accepted";
  } catch (const ArgumentError& e) {
    EXPECT_NE(std::string(e.what()).find("found 4; did you mean 4 GB, which is 4000000000 bytes?"), std::string::npos)
        << e.what();
  }
}

TEST_F(CalibrateModelTest, NothingStaysOfARunThatStops) {
  Observer stop;
  stop.on_progress = [](const Progress& p) { return p.stage != "calibrate" || p.done == 0; };
  EXPECT_THROW(calibrate_model(path("model"), path("s.npz"), options_, machine_, true, false, stop), Interrupted);
  for (const auto& entry : fs::directory_iterator(folder_)) {
    EXPECT_EQ(entry.path().filename().string().find("npz"), std::string::npos) << entry.path();
  }
  EXPECT_THROW(calibrate_model(path("model"), path("s.txt"), options_, machine_), ArgumentError);
  EXPECT_THROW(calibrate_model(path("model"), path("none/s.npz"), options_, machine_), SystemError);
  fs::create_directory(folder_ / "dir.npz");
  EXPECT_THROW(calibrate_model(path("model"), path("dir.npz"), options_, machine_), SystemError);
  options_.calibration = {path("other.npz")};
  EXPECT_THROW(calibrate_model(path("model"), path("s.npz"), options_, machine_), ArgumentError);
}

// The weights are the same, but not what goes into the linears.
TEST_F(CalibrateModelTest, StatisticsOfAnotherConfigAreRefused) {
  calibrate_model(path("model"), path("s.npz"), options_, machine_);
  QuantizeOptions o;
  o.calibration.calibration = {path("s.npz")};
  o.evaluation.text = "none";
  o.group_size = 8;
  o.method = Method::kRtn;
  const json config = json::parse(read_text_file(path("model/config.json")));
  const auto refusal = [&](const char* key, const json& value) {
    json changed = config;
    changed[key] = value;
    std::ofstream(path("model/config.json")) << changed.dump();
    try {
      plan_quantization(path("model"), path("out"), o);
    } catch (const FormatError& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  EXPECT_EQ(refusal("use_cache", false), "");
  EXPECT_NE(refusal("rms_norm_eps", 0.25).find("its statistics are of a model with rms_norm_eps"), std::string::npos);
  EXPECT_NE(
      refusal(config.contains("rope_parameters") ? "rope_parameters" : "rope_theta",
              config.contains("rope_parameters") ? json{{"rope_type", "default"}, {"rope_theta", 777.0}} : json(777.0))
          .find("which has 777"),
      std::string::npos);
}

}  // namespace
}  // namespace metal_marlin

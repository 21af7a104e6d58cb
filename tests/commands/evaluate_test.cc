// evaluate_model from text to figures, against float64 on transformers' logits: a word-level tokenizer whose words are
// the ids "t0" ... "t95" lets a text say the golden tokens.
#include <gtest/gtest.h>
#include <metal_marlin/error.h>
#include <metal_marlin/evaluate.h>
#include <metal_marlin/quantize.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>

#include "core/files/atomic_file.h"
#include "eval/golden_scores.h"
#include "formats/safetensors.h"

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int64_t kChunks = 2;
constexpr int64_t kLength = 24;
constexpr int64_t kVocab = 96;
constexpr double kTolerance = 1e-4;  // float32 forward passes that sum in another order

class EvaluateTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("evaluate_test_" + std::to_string(getpid()));
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  // A copy of a tiny model with the word-level tokenizer, its config changed.
  std::string model(const std::string& name, const std::string& copy, const json& change = json::object()) const {
    const fs::path to = folder_ / copy;
    fs::copy(models() + name, to);
    for (const char* file : {"tokenizer.model", "tokenizer_config.json", "golden.safetensors"}) fs::remove(to / file);
    json vocabulary;
    for (int64_t id = 0; id < kVocab; ++id) vocabulary["t" + std::to_string(id)] = id;
    const json tokenizer = {{"version", "1.0"},
                            {"truncation", nullptr},
                            {"padding", nullptr},
                            {"added_tokens", json::array()},
                            {"normalizer", nullptr},
                            {"pre_tokenizer", {{"type", "WhitespaceSplit"}}},
                            {"post_processor", nullptr},
                            {"decoder", nullptr},
                            {"model", {{"type", "WordLevel"}, {"vocab", vocabulary}, {"unk_token", "t0"}}}};
    std::ofstream(to / "tokenizer.json") << tokenizer.dump();
    json config = json::parse(read_text_file((to / "config.json").string()));
    config.merge_patch(change);
    std::ofstream(to / "config.json") << config.dump();
    return to.string();
  }
  static std::string models() { return std::string(TEST_DATA) + "/models/"; }
  EvaluationOptions text_of(const SafetensorsFile& golden) const {
    const auto* ids = reinterpret_cast<const int32_t*>(golden.get("input_ids").bytes.data());
    std::ofstream text(folder_ / "text.txt");
    for (int64_t i = 0; i < kChunks * kLength; ++i) text << "t" << ids[i] << (i % 7 == 6 ? "\n" : " ");
    EvaluationOptions options;
    options.text = (folder_ / "text.txt").string();
    options.context = kLength;
    return options;
  }
  static const float* logits(const SafetensorsFile& golden) {
    return reinterpret_cast<const float*>(golden.get("logits").bytes.data());
  }
  static plain::Scores scores(const SafetensorsFile& golden, const SafetensorsFile& reference) {
    return plain::scores_of(logits(golden), logits(reference),
                            reinterpret_cast<const int32_t*>(golden.get("input_ids").bytes.data()), kChunks, kLength,
                            kVocab);
  }

  fs::path folder_;
};

TEST_F(EvaluateTest, PerplexityIsThatOfTransformersLogits) {
  for (const std::string name : {"llama", "qwen3", "gemma2", "phi3"}) {
    const SafetensorsFile golden(models() + name + "/golden.safetensors");
    std::vector<std::string> warnings;
    Observer observer;
    observer.on_warning = [&](const std::string& w) { warnings.push_back(w); };
    const Evaluation got = evaluate_model(model(name, name), "", text_of(golden), {}, observer);
    EXPECT_EQ(got.model.positions, kChunks * (kLength - 1)) << name;
    EXPECT_NEAR(got.model.perplexity.quantized.value() / scores(golden, golden).perplexity, 1, kTolerance) << name;
    EXPECT_FALSE(got.model.perplexity.reference || got.model.kl_divergence.mean ||
                 got.model.kl_divergence.standard_error || got.model.kl_divergence.p99 || got.model.top1_agreement);
    ASSERT_EQ(warnings.size(), 1U) << name;  // 32 chunks were asked for
    EXPECT_NE(warnings[0].find("only 2 chunks"), std::string::npos) << warnings[0];
    const json j = json::parse(got.to_json());
    EXPECT_EQ(j["model"]["positions"], got.model.positions);
    EXPECT_TRUE(j["model"]["kl_divergence"]["mean"].is_null());
    EXPECT_EQ(j["model"]["perplexity"]["quantized"], *got.model.perplexity.quantized);
  }
}

// The texts of JSON Lines, one after the other.
TEST_F(EvaluateTest, JsonLinesAreTheirTexts) {
  const SafetensorsFile golden(models() + "llama/golden.safetensors");
  EvaluationOptions options = text_of(golden);
  std::ifstream file(options.text);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const double expected = evaluate_model(model("llama", "a"), "", options, {}, {}).model.perplexity.quantized.value();
  std::ofstream(folder_ / "text.jsonl") << json{{"text", text}}.dump() << "\n";
  options.text = (folder_ / "text.jsonl").string();
  EXPECT_EQ(evaluate_model(model("llama", "b"), "", options, {}, {}).model.perplexity.quantized, expected);
}

// The same weights without their sliding window: the golden logits of the GGUF that cannot say it.
TEST_F(EvaluateTest, DivergenceIsThatOfTransformersLogits) {
  const SafetensorsFile reference(models() + "mistral/golden.safetensors");
  const SafetensorsFile golden(models() + "gguf/mistral.golden.safetensors");
  const auto want = scores(golden, reference);
  ASSERT_GT(want.kl_mean, 1e-3);
  const std::string with = model("mistral", "window");
  const std::string without = model("mistral", "plain", {{"sliding_window", nullptr}});
  const EvaluationOptions options = text_of(golden);
  MachineOptions tight;
  const Evaluation got = evaluate_model(without, with, options, tight);
  EXPECT_NEAR(got.model.perplexity.quantized.value() / want.perplexity, 1, kTolerance);
  EXPECT_NEAR(got.model.perplexity.reference.value() / want.reference_perplexity, 1, kTolerance);
  EXPECT_NEAR(got.model.kl_divergence.mean.value() / want.kl_mean, 1, kTolerance);
  EXPECT_NEAR(got.model.kl_divergence.standard_error.value() / want.kl_standard_error, 1, kTolerance);
  EXPECT_NEAR(got.model.kl_divergence.p99.value() / want.kl_p99, 1, kTolerance);
  EXPECT_DOUBLE_EQ(got.model.top1_agreement.value(), want.top1);
  const Evaluation itself = evaluate_model(with, with, options, tight);
  EXPECT_EQ(itself.model.kl_divergence.mean, 0);
  EXPECT_EQ(itself.model.top1_agreement, 1);
}

TEST_F(EvaluateTest, ModelsOfOtherTokensAreRefused) {
  const SafetensorsFile golden(models() + "llama/golden.safetensors");
  const EvaluationOptions options = text_of(golden);
  const std::string a = model("llama", "a");
  const std::string b = model("llama", "b");
  const auto change = [&](const std::function<void(json&)>& edit) {
    const std::string path = b + "/tokenizer.json";
    json tokenizer = json::parse(read_text_file(path));
    edit(tokenizer);
    std::ofstream(path) << tokenizer.dump();
  };
  const auto refusal = [&] {
    try {
      evaluate_model(a, b, options, {});
    } catch (const UnsupportedError& e) {
      return std::string(e.what());
    }
    return std::string("taken");
  };
  EXPECT_EQ(refusal(), "taken");
  // Other words.
  change([](json& t) {
    t["model"]["vocab"]["t7"] = 8;
    t["model"]["vocab"]["t8"] = 7;
  });
  EXPECT_NE(refusal().find("token 7 is \"t8\" there and \"t7\" here"), std::string::npos) << refusal();
  // The same words, met in another way.
  change([](json& t) {
    t["model"]["vocab"]["t7"] = 7;
    t["model"]["vocab"]["t8"] = 8;
    t["normalizer"] = {{"type", "Replace"}, {"pattern", {{"String", "t1"}}}, {"content", "t2"}};
  });
  EXPECT_NE(refusal().find("into other tokens"), std::string::npos) << refusal();
}

TEST_F(EvaluateTest, SaysWhatCannotBeEvaluated) {
  const SafetensorsFile golden(models() + "llama/golden.safetensors");
  EvaluationOptions options = text_of(golden);
  options.context = 49;
  const std::string a = model("llama", "a");
  EXPECT_THROW(evaluate_model(a, "", options, {}), FormatError);  // 48 tokens
  options.context = 24;
  options.chunks = 0;
  EXPECT_THROW(evaluate_model(a, "", options, {}), ArgumentError);
  options.chunks = 1;
  MachineOptions machine;
  machine.memory_bytes = 1 << 20;
  EXPECT_THROW(evaluate_model(a, "", options, machine), SystemError);
  machine = {};
  machine.precision = MatmulPrecision{9};
  EXPECT_THROW(evaluate_model(a, "", options, machine), ArgumentError);
  options.text = (folder_ / "none").string();
  EXPECT_THROW(evaluate_model(a, "", options, {}), SystemError);
  Observer stop;
  stop.on_progress = [](const Progress&) { return false; };
  options.text = (folder_ / "text.txt").string();
  EXPECT_THROW(evaluate_model(a, "", options, {}, stop), Interrupted);
}

// Finite weights whose logits are so far apart that no number holds the perplexity: JSON would say null.
TEST_F(EvaluateTest, APerplexityThatNoNumberHoldsIsAnErrorOfEvaluateAndQuantize) {
  const SafetensorsFile golden(models() + "llama/golden.safetensors");
  EvaluationOptions options = text_of(golden);
  const std::string a = model("llama", "a");
  const auto scaled = [&](const std::string& name, float norm, float head) {
    const std::string path = model("llama", name);
    std::vector<OwnedTensor> tensors;
    {
      const SafetensorsFile file(path + "/model.safetensors");
      for (const TensorView& t : file.tensors()) {
        OwnedTensor copy{t.name, t.dtype, t.shape, Buffer(t.bytes.size())};
        std::memcpy(copy.bytes.data(), t.bytes.data(), t.bytes.size());
        const float factor = t.name == "model.norm.weight" ? norm : t.name == "lm_head.weight" ? head : 1.0F;
        auto* values = reinterpret_cast<float*>(copy.bytes.data());  // all of this model is F32
        for (int64_t i = 0; factor != 1.0F && i < t.elements(); ++i) values[i] *= factor;
        tensors.push_back(std::move(copy));
      }
    }
    write_safetensors(path + "/model.safetensors", std::span<const OwnedTensor>(tensors));
    return path;
  };
  const std::string wild = scaled("wild", 1e5F, 1);
  const auto refusal = [](const auto& call) {
    try {
      call();
    } catch (const NumericError& e) {
      return std::string(e.what());
    }
    return std::string("taken");
  };
  const std::string alone = refusal([&] { evaluate_model(wild, "", options, {}); });
  EXPECT_NE(alone.find("wild: the perplexity is too large for a number"), std::string::npos) << alone;
  EXPECT_NE(alone.find(" of chunk "), std::string::npos) << alone;
  const std::string as_reference = refusal([&] { evaluate_model(a, wild, options, {}); });
  EXPECT_NE(as_reference.find("wild: the perplexity is too large for a number"), std::string::npos) << as_reference;
  QuantizeOptions q;
  q.method = Method::kRtn;
  q.group_size = 8;
  q.formats = {"native"};
  q.calibration.calibration = {options.text};
  q.calibration.samples = 1;
  q.calibration.sequence_length = 24;
  q.evaluation = options;
  const std::string out = (folder_ / "out").string();
  const std::string quantized = refusal([&] { quantize_model(wild, out, q); });
  EXPECT_NE(quantized.find("the perplexity is too large for a number"), std::string::npos) << quantized;
  EXPECT_FALSE(fs::exists(out + "/report.json"));
  // Finite weights whose products exceed float32: a divergence of NaN must not pass for one of 0.
  const std::string over = scaled("over", 1e38F, 1e6F);
  const std::string logits = refusal([&] { evaluate_model(over, "", options, {}); });
  EXPECT_NE(logits.find("over: the logits for token 2 of chunk 1 are NaN or infinite"), std::string::npos) << logits;
  const std::string sensitivity = refusal([&] { sensitivity_of_model(over, q); });
  EXPECT_NE(sensitivity.find("of the calibration text are NaN or infinite"), std::string::npos) << sensitivity;
}

}  // namespace
}  // namespace metal_marlin

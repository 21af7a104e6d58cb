// Models whose linears stay codes: against the same model in float32, and a sequence alone against one in a batch.
#include <gtest/gtest.h>
#include <metal_marlin/error.h>
#include <metal_marlin/generate.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>

#include "checkpoint/model_source.h"
#include "core/half.h"
#include "core/threads.h"
#include "infer/decoder.h"
#include "infer/tiny_models.h"
#include "model/model.h"
#include "model/prepared_block.h"
#include "tokenizer/tokenizer.h"

namespace metal_marlin {
namespace {

using namespace test;

// A tiny model with its linears rounded to nearest, 4 bits and groups of 8 (phi3's fused ones as a whole), except those
// of the last layer, which stay floats. `load` gives what the codes mean.
class RoundedSource : public ModelSource {
 public:
  explicit RoundedSource(const std::string& model, bool symmetric = false)
      : inner_(ModelSource::open(model)), symmetric_(symmetric) {
    path_ = inner_->path();
    format_ = "native";
    family_ = &inner_->family();
    config_ = inner_->config();
    config_json_ = std::make_shared<nlohmann::json>(inner_->config_json());
    for (int64_t layer = 0; layer + 1 < config_.num_hidden_layers; ++layer) {
      for (const LinearSlot& slot : inner_->linears(layer)) rounded_.push_back(slot.weight);
    }
  }
  std::vector<CheckpointTensor> tensors() const override { return inner_->tensors(); }
  std::vector<CheckpointTensor> left_out() const override { return {}; }
  bool has(const std::string& name) const override { return inner_->has(name); }
  OwnedTensor load_stored(const std::string& name) const override { return inner_->load_stored(name); }
  Matrix load(const std::string& name, int64_t first_row, int64_t rows) const override {
    const auto codes = load_codes(name, Codes::kRead);
    if (!codes) return inner_->load(name, first_row, rows);
    if (rows < 0) rows = codes->tensor.out_features - first_row;
    Matrix m(rows, codes->tensor.in_features);
    dequantize_rows(codes->tensor, first_row, rows, m.data());
    return m;
  }
  std::optional<QuantizedTensor> load_quantized(const std::string&) const override { return std::nullopt; }
  std::optional<StoredCodes> load_codes(const std::string& name, Codes) const override {
    if (std::find(rounded_.begin(), rounded_.end(), name) == rounded_.end()) return std::nullopt;
    const Matrix w = inner_->load(name);
    QuantizedTensor q;
    q.out_features = w.rows();
    q.in_features = w.cols();
    q.group_size = 8;
    q.symmetric = symmetric_;
    for (int64_t r = 0; r < w.rows(); ++r) {
      for (int64_t k = 0; k < w.cols(); k += 8) {
        const auto group =
            w.row(r).subspan(static_cast<size_t>(k), static_cast<size_t>(std::min<int64_t>(8, w.cols() - k)));
        const auto [low, high] = std::minmax_element(group.begin(), group.end());
        const float largest = std::max(std::fabs(*low), std::fabs(*high));
        const float step = std::max(1e-4f, symmetric_ ? largest / 7 : (*high - *low) / 15);
        const uint16_t scale = f32_to_f16(step);
        const float value = f16_to_f32(scale);
        const float zero = symmetric_ ? 8 : std::clamp(std::nearbyint(-*low / value), 0.0f, 15.0f);
        q.scales.push_back(scale);
        q.zeros.push_back(static_cast<uint8_t>(zero));
        for (const float v : group)
          q.codes.push_back(static_cast<uint8_t>(std::clamp(std::nearbyint(v / value) + zero, 0.0f, 15.0f)));
      }
    }
    return StoredCodes{std::move(q), {}};
  }
  void release(const std::string&) const override {}
  void check_unchanged() const override {}
  const Tokenizer& tokenizer() const override { return inner_->tokenizer(); }
  std::vector<std::pair<std::string, std::string>> companion_files() const override { return {}; }
  Digest digest() const override { return {}; }

 protected:
  void leave_out(const std::string&, const std::string&) override {}
  int64_t first_not_finite(const std::string&) const override { return -1; }
  std::string files_read(const std::string& missing) const override { return missing; }
  std::vector<std::string> rounded_;

 private:
  std::unique_ptr<ModelSource> inner_;
  bool symmetric_;
};

std::vector<float> logits_of(const ModelSource& source, const std::vector<int32_t>& ids, bool codes, HeadBits bits) {
  DecoderOptions options;
  options.capacity = static_cast<int64_t>(ids.size());
  options.codes = codes;
  Decoder decoder(source, options);
  const Head head(source, ComputeType::kF32, bits);
  Matrix states;
  const int64_t lengths[] = {static_cast<int64_t>(ids.size())};
  decoder.run(ids, lengths, states);
  std::vector<float> logits(ids.size() * static_cast<size_t>(head.vocab_size()));
  head.logits(states.data(), states.rows(), logits.data());
  return logits;
}

class CodesOfFamily : public testing::TestWithParam<std::string> {};

// Activations lose up to 1 part in 254 of a group's largest in each linear, which the random weights of the tiny models
// make more of: 1 to 4 % of the logits' root mean square. With a wrong scale, zero, row or order the logits have
// nothing to do with each other, and the difference is as large as they are.
TEST_P(CodesOfFamily, AgreeWithTheSameModelInFloats) {
  const GoldenLogits golden(GetParam());
  for (const bool symmetric : {false, true}) {
    const RoundedSource source(tiny_model(GetParam()), symmetric);
    const auto floats = logits_of(source, golden.ids[0], false, HeadBits::kStored);
    double squares = 0;
    for (const float v : floats) squares += static_cast<double>(v) * v;
    for (const HeadBits bits : {HeadBits::kStored, HeadBits::k8}) {
      const auto codes = logits_of(source, golden.ids[0], true, bits);
      ASSERT_EQ(codes.size(), floats.size());
      double error = 0;
      for (size_t i = 0; i < codes.size(); ++i) error += std::pow(static_cast<double>(codes[i]) - floats[i], 2);
      EXPECT_LT(std::sqrt(error / squares), 0.06);
      EXPECT_GT(error, 0.0) << "the activations were not rounded";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Families, CodesOfFamily,
                         testing::Values("llama", "llama-bias", "mistral", "phi3", "qwen2", "qwen3", "gemma2",
                                         "gemma3"),
                         [](const auto& i) {
                           std::string name = i.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

// The states of sequences that are generated beside each other, on any number of threads, are those of each alone.
TEST(Codes, BatchEqualsAlone) {
  const GoldenLogits golden("llama");
  const RoundedSource source(tiny_model("llama"));
  const std::vector<int32_t>& ids = golden.ids[0];
  constexpr int64_t kSequences = 20;  // more rows than the kernels of few rows take
  constexpr int64_t kSteps = 6;
  const auto token = [&](int64_t sequence, int64_t step) {
    return ids[static_cast<size_t>(sequence + step) % ids.size()];
  };
  const auto run = [&](int64_t first, int64_t count) {
    DecoderOptions options;
    options.sequences = count;
    options.capacity = kSteps;
    options.codes = true;
    Decoder decoder(source, options);
    const std::vector<int64_t> lengths(static_cast<size_t>(count), 1);
    Matrix states;
    for (int64_t step = 0; step < kSteps; ++step) {
      std::vector<int32_t> row;
      for (int64_t s = 0; s < count; ++s) row.push_back(token(first + s, step));
      decoder.run(row, lengths, states);
    }
    return states;
  };
  const Matrix batch = run(0, kSequences);
  for (const int n : {1, 3}) {
    const ThreadCount count(n);
    const Matrix again = run(0, kSequences);
    EXPECT_EQ(0, std::memcmp(again.data(), batch.data(), static_cast<size_t>(batch.size()) * sizeof(float)));
    for (const int64_t s : {int64_t{0}, int64_t{7}, kSequences - 1}) {
      const Matrix alone = run(s, 1);
      EXPECT_EQ(0, std::memcmp(alone.data(), batch.row(s).data(), static_cast<size_t>(alone.cols()) * sizeof(float)))
          << "sequence " << s;
    }
  }
}

class AllCodes : public RoundedSource {
 public:
  explicit AllCodes(const std::string& model) : RoundedSource(tiny_model(model)) {
    for (const LinearSlot& slot : linears(config_.num_hidden_layers - 1)) rounded_.push_back(slot.weight);
  }
};

// Pieces of one token, of few and of many: a token's states have the same bits, also after a step back.
TEST(Codes, PiecesOfAPromptDoNotChangeABit) {
  for (const std::string model : {"llama", "gemma2", "mistral"}) {
    const GoldenLogits golden(model);
    const AllCodes source(model);
    std::vector<int32_t> ids;
    for (size_t i = 0; i < 150; ++i) ids.push_back(golden.ids[0][i % golden.ids[0].size()]);
    for (const KvType cache : {KvType::kF32, KvType::kF16, KvType::kI8}) {
      DecoderOptions options;
      options.capacity = static_cast<int64_t>(ids.size());
      options.codes = true;
      options.cache = cache;
      Decoder decoder(source, options);
      const auto run = [&](size_t first, size_t count) {
        Matrix states;
        const int64_t lengths[] = {static_cast<int64_t>(count)};
        decoder.run(std::span(ids).subspan(first, count), lengths, states);
        return states;
      };
      const Matrix whole = run(0, ids.size());
      const auto expect_rows = [&](const Matrix& states, size_t first) {
        EXPECT_EQ(0, std::memcmp(states.data(), whole.row(static_cast<int64_t>(first)).data(),
                                 static_cast<size_t>(states.size()) * sizeof(float)))
            << model << " from " << first << ", " << states.rows() << " tokens";
      };
      for (const size_t piece : {1, 5, 70}) {
        decoder.truncate(0, 0);
        for (size_t first = 0; first < ids.size(); first += piece) {
          expect_rows(run(first, std::min(piece, ids.size() - first)), first);
        }
      }
      ASSERT_TRUE(decoder.can_truncate(0, 140));
      decoder.truncate(0, 140);
      expect_rows(run(140, 10), 140);
    }
  }
}

// A long prompt is shared between threads in other ways than a short one.
TEST(Codes, PromptDoesNotDependOnThreads) {
  const GoldenLogits golden("llama");
  const AllCodes source("llama");
  std::vector<int32_t> ids;
  for (size_t i = 0; i < 300; ++i) ids.push_back(golden.ids[0][i % golden.ids[0].size()]);
  DecoderOptions options;
  options.capacity = static_cast<int64_t>(ids.size());
  options.codes = true;
  Decoder decoder(source, options);
  Matrix first;
  for (const int n : {1, 2, 3}) {
    const ThreadCount count(n);
    decoder.truncate(0, 0);
    Matrix states;
    read_prompt(decoder, ids, states);
    if (first.empty()) {
      first = states.clone();
      EXPECT_EQ(first.rows(), 300 - 256);
    }
    EXPECT_EQ(0, std::memcmp(states.data(), first.data(), static_cast<size_t>(first.size()) * sizeof(float))) << n;
  }
}

TEST(Codes, DamageIsNamed) {
  class Damaged : public RoundedSource {
   public:
    explicit Damaged(int kind) : RoundedSource(tiny_model("llama")), kind_(kind) {}
    std::optional<StoredCodes> load_codes(const std::string& name, Codes codes) const override {
      auto stored = RoundedSource::load_codes(name, codes);
      if (!stored) return stored;
      if (kind_ == 0) stored->tensor.scales[3] = 0x7c00;  // infinite
      if (kind_ == 1) stored->q_scale.assign(static_cast<size_t>(stored->tensor.in_features), 0);
      if (kind_ == 2) stored->tensor.codes.pop_back();
      return stored;
    }

   private:
    int kind_;
  };
  for (const int kind : {0, 1, 2}) {
    const Damaged source(kind);
    try {
      load_prepared_block(source, 0, ComputeType::kF32, true);
      FAIL() << "kind " << kind;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("model.layers.0.self_attn.q_proj.weight"), std::string::npos)
          << error.what();
    }
  }
}

TEST(Codes, OptionsOfTextGenerator) {
  const auto fails = [](const ComputeOptions& compute) {
    try {
      TextGenerator generator(tiny_model("llama"), {}, false, compute);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  ComputeOptions compute;
  compute.compute = Arithmetic::kInt8;
  EXPECT_NE(fails(compute).find("linears are quantized, found none"), std::string::npos) << fails(compute);
  compute.compute = Arithmetic::kF32;
  compute.head = 4;
  EXPECT_NE(fails(compute).find("--head: expected auto, 16 or 8, found 4"), std::string::npos) << fails(compute);
  GenerateOptions options;
  options.predict = 8;
  options.temp = 0;
  options.ignore_eos = true;
  compute.head = 16;
  const std::string plain = TextGenerator(tiny_model("llama")).generate("the", options);
  EXPECT_EQ(TextGenerator(tiny_model("llama"), {}, false, compute).generate("the", options), plain);
  compute.head = 8;
  EXPECT_FALSE(TextGenerator(tiny_model("llama"), {}, false, compute).generate("the", options).empty());
}

}  // namespace
}  // namespace metal_marlin

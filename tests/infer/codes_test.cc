// Models whose linears stay codes: against the same model in float32, and a sequence alone against one in a batch.
#include <gtest/gtest.h>
#include <metal_marlin/error.h>
#include <metal_marlin/generate.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <nlohmann/json.hpp>

#include "checkpoint/gguf_of_blocks.h"
#include "checkpoint/model_source.h"
#include "core/half.h"
#include "core/threads.h"
#include "infer/compute.h"
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
  std::vector<CompanionFile> companion_files() const override { return {}; }
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
  const Head head(source, MatmulPrecision::kF32, bits);
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
      load_prepared_block(source, 0, MatmulPrecision::kF32, true);
      FAIL() << "kind " << kind;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("model.layers.0.self_attn.q_proj.weight"), std::string::npos)
          << error.what();
    }
  }
}

// ---------------------------------------------------------------- the blocks of GGUF files

std::vector<int32_t> some_tokens(size_t count) {
  std::vector<int32_t> ids;
  for (size_t i = 0; i < count; ++i) ids.push_back(static_cast<int32_t>(i * 13 % BlocksModel::kVocabulary));
  return ids;
}

// As AgreeWithTheSameModelInFloats, with every type of block in the linears and in the head.
TEST(GgufBlocks, AgreeWithTheSameModelInFloats) {
  for (const GgmlType type :
       {GgmlType::kQ4_0, GgmlType::kQ4_1, GgmlType::kQ5_0, GgmlType::kQ5_1, GgmlType::kQ8_0, GgmlType::kQ2_K,
        GgmlType::kQ3_K, GgmlType::kQ4_K, GgmlType::kQ5_K, GgmlType::kQ6_K, GgmlType::kIQ4_NL, GgmlType::kIQ4_XS}) {
    SCOPED_TRACE(ggml_type_info(type).name);
    const TemporaryFolder folder;
    BlocksModel model(type);
    model.head = type;
    const auto source = model.open(folder);
    const auto ids = some_tokens(24);
    const auto floats = logits_of(*source, ids, false, HeadBits::kStored);
    double squares = 0;
    for (const float v : floats) squares += static_cast<double>(v) * v;
    for (const HeadBits bits : {HeadBits::kStored, HeadBits::k8}) {
      const auto codes = logits_of(*source, ids, true, bits);
      double error = 0;
      for (size_t i = 0; i < codes.size(); ++i) error += std::pow(static_cast<double>(codes[i]) - floats[i], 2);
      EXPECT_LT(std::sqrt(error / squares), 0.06);
      EXPECT_GT(error, 0.0) << "the activations were not rounded";
    }
    EXPECT_TRUE(load_prepared_block(*source, 0, MatmulPrecision::kF32, true)->all_codes());
  }
}

// Layers of two types with other groups, in pieces of one token, of few and of many, on one thread and on three.
TEST(GgufBlocks, PiecesOfAPromptDoNotChangeABit) {
  const TemporaryFolder folder;
  BlocksModel model(GgmlType::kQ4_K);
  model.last = GgmlType::kQ6_K;
  const auto source = model.open(folder);
  const auto ids = some_tokens(120);
  DecoderOptions options;
  options.capacity = static_cast<int64_t>(ids.size());
  options.codes = true;
  Decoder decoder(*source, options);
  Matrix whole;
  for (const int n : {1, 3}) {
    const ThreadCount count(n);
    for (const size_t piece : {ids.size(), size_t{1}, size_t{5}, size_t{70}}) {
      decoder.truncate(0, 0);
      for (size_t first = 0; first < ids.size(); first += piece) {
        const size_t tokens = std::min(piece, ids.size() - first);
        Matrix states;
        const int64_t lengths[] = {static_cast<int64_t>(tokens)};
        decoder.run(std::span(ids).subspan(first, tokens), lengths, states);
        if (whole.empty()) whole = states.clone();
        ASSERT_EQ(0, std::memcmp(states.data(), whole.row(static_cast<int64_t>(first)).data(),
                                 static_cast<size_t>(states.size()) * sizeof(float)))
            << n << " threads, from " << first << ", " << tokens << " tokens";
      }
    }
  }
}

// What a budget allows is counted in codes: one that holds the codes holds the layers, whatever their floats take.
TEST(GgufBlocks, MemoryIsCountedInCodes) {
  const TemporaryFolder folder;
  BlocksModel model(GgmlType::kQ4_0);
  model.last = GgmlType::kQ6_K;
  const auto source = model.open(folder);
  for (const int64_t layer : {0, 1}) {
    uint64_t norms = 0;
    const auto block = load_prepared_block(*source, layer, MatmulPrecision::kF32, true);
    for (int k = 0; k < kNorms; ++k) norms += block->norm(static_cast<NormKind>(k)).size() * sizeof(float);
    EXPECT_EQ(prepared_bytes(*source, layer, MatmulPrecision::kF32, true), block->bytes() - norms);
  }
  const uint64_t first = prepared_bytes(*source, 0, MatmulPrecision::kF32, true);
  const uint64_t both = first + prepared_bytes(*source, 1, MatmulPrecision::kF32, true);
  EXPECT_LT(both, prepared_bytes(*source, 0, MatmulPrecision::kF32, false) / 2);
  const auto resident = [&](uint64_t bytes, bool codes) {
    DecoderOptions options;
    options.codes = codes;
    options.weight_bytes = bytes;
    return Decoder(*source, options).resident_layers();
  };
  EXPECT_EQ(resident(both, true), 2);
  EXPECT_EQ(resident(both - 1, true), 1);
  EXPECT_EQ(resident(first - 1, true), 0);
  EXPECT_EQ(resident(both, false), 0);
  // The head: 8 bits and a float32 for each 16 columns of whole tiles of 16 rows, or 16 bits.
  EXPECT_EQ(Head::bytes(*source, HeadBits::k8), 80u * 256 + 80u * 16 * 4);
  EXPECT_EQ(Head::bytes(*source, HeadBits::kStored), 70u * 256 * 2);
}

// The same for a 4-bit checkpoint in safetensors: its codes are counted, with a zero for each group at most.
TEST(Codes, MemoryOfACheckpointIsCountedInCodes) {
  class Measured : public RoundedSource {
   public:
    Measured() : RoundedSource(tiny_model("llama")) {}
    std::optional<CodeForm> code_form(const std::string& name) const override {
      if (std::find(rounded_.begin(), rounded_.end(), name) == rounded_.end()) return std::nullopt;
      return CodeForm{.bits = 4, .group = 8, .zeros = true};
    }
  };
  const Measured source;
  const auto block = load_prepared_block(source, 0, MatmulPrecision::kF32, true);
  const uint64_t planned = prepared_bytes(source, 0, MatmulPrecision::kF32, true);
  EXPECT_LE(planned, block->bytes());
  EXPECT_GT(2 * planned, block->bytes());
  EXPECT_LT(planned, prepared_bytes(source, 0, MatmulPrecision::kF32, false));
}

TEST(GgufBlocks, AreWhatAutoTakes) {
  const TemporaryFolder folder;
  const auto coded = BlocksModel(GgmlType::kQ4_1).open(folder);
  EXPECT_STREQ(compute_of({}, {}, *coded, true).name, "int8");
  EXPECT_EQ(compute_of({}, {}, *coded, true).head, HeadBits::k8);
  EXPECT_STREQ(compute_of({}, {}, *coded, false).name, "f32");  // evaluation
  ComputeOptions asked;
  asked.compute = Arithmetic::kInt8;
  EXPECT_TRUE(compute_of(asked, {}, *coded, false).codes);
  const TemporaryFolder other;
  const auto floats = BlocksModel(GgmlType::kF16).open(other);
  EXPECT_STREQ(compute_of({}, {}, *floats, true).name, "f32");
  EXPECT_THROW(compute_of(asked, {}, *floats, true), UnsupportedError);
}

TEST(GgufBlocks, DamageIsNamed) {
  const auto error_of = [](const std::string& tensor, const std::function<void(const ModelSource&)>& load) {
    const TemporaryFolder folder;
    BlocksModel model(GgmlType::kQ4_K);
    model.damage = {{tensor, {tensor == "output.weight" ? 208 : 2, std::string("\x00\x7c", 2)}}};
    const auto source = model.open(folder);
    try {
      load(*source);
    } catch (const NumericError& error) {
      return std::string(error.what());
    }
    return std::string("nothing");
  };
  const std::string of_block = error_of("blk.1.ffn_down.weight", [](const ModelSource& source) {
    load_prepared_block(source, 0, MatmulPrecision::kF32, true);
    load_prepared_block(source, 1, MatmulPrecision::kF32, true);
  });
  EXPECT_NE(of_block.find("tensor blk.1.ffn_down.weight"), std::string::npos) << of_block;
  const std::string of_head =
      error_of("output.weight", [](const ModelSource& source) { Head(source, MatmulPrecision::kF32, HeadBits::k8); });
  EXPECT_NE(of_head.find("tensor output.weight"), std::string::npos) << of_head;
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

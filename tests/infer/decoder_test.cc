#include "infer/decoder.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>
#include <metal_marlin/interrupt.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>

#include "checkpoint/model_source.h"
#include "core/threads.h"
#include "infer/tiny_models.h"
#include "kernels/gemm.h"
#include "model/model.h"
#include "model/prepared_block.h"

namespace metal_marlin {
namespace {

using namespace test;

// The bar for logits against transformers: 2e-4 of the largest logit. Float16 keys and values have 11 bits.
constexpr float kLogitTolerance = 2e-4f;
constexpr float kHalfCacheTolerance = 5e-3f;

float worst(const GoldenLogits& golden, const Head& head, const Matrix& states, size_t row, size_t sequence,
            size_t token) {
  std::vector<float> logits(static_cast<size_t>(golden.vocab));
  head.logits(states.row(static_cast<int64_t>(row)).data(), 1, logits.data());
  float error = 0;
  for (size_t i = 0; i < logits.size(); ++i)
    error = std::max(error, std::fabs(logits[i] - golden.row(sequence, token)[i]));
  return error / golden.largest;
}

constexpr int64_t kOneEach[] = {1, 1};

class DecoderOfFamily : public testing::TestWithParam<std::string> {};

// One token of both sequences per step, through the cache.
TEST_P(DecoderOfFamily, StepByStepEqualsTransformers) {
  const GoldenLogits golden(GetParam());
  const auto source = ModelSource::open(tiny_model(GetParam()));
  const auto length = static_cast<int64_t>(golden.ids[0].size());
  const Head head(*source);
  for (const KvType cache : {KvType::kF32, KvType::kF16}) {
    DecoderOptions options;
    options.sequences = 2;
    options.capacity = length;
    options.cache = cache;
    Decoder decoder(*source, options);
    Matrix states;
    for (int64_t t = 0; t < length; ++t) {
      const auto at = static_cast<size_t>(t);
      const int32_t ids[] = {golden.ids[0][at], golden.ids[1][at]};
      decoder.run(ids, kOneEach, states);
      for (size_t s = 0; s < 2; ++s) {
        EXPECT_LE(worst(golden, head, states, s, s, at), cache == KvType::kF32 ? kLogitTolerance : kHalfCacheTolerance)
            << "sequence " << s << " token " << t;
      }
    }
  }
}

// A prompt in two pieces, and layers that are loaded again at each call.
TEST_P(DecoderOfFamily, PromptInPiecesEqualsTransformers) {
  const GoldenLogits golden(GetParam());
  const auto source = ModelSource::open(tiny_model(GetParam()));
  const std::vector<int32_t>& ids = golden.ids[1];
  const Head head(*source);
  DecoderOptions options;
  options.capacity = static_cast<int64_t>(ids.size());
  options.weight_bytes = prepared_bytes(*source, 0, MatmulPrecision::kF32, false);
  Decoder decoder(*source, options);
  EXPECT_EQ(decoder.resident_layers(), 1);
  Matrix states;
  const size_t cut = 11;
  for (const auto& [first, last] : {std::pair<size_t, size_t>{0, cut}, {cut, ids.size()}}) {
    const int64_t lengths[] = {static_cast<int64_t>(last - first)};
    decoder.run(std::span(ids).subspan(first, last - first), lengths, states);
    for (size_t t = first; t < last; ++t)
      EXPECT_LE(worst(golden, head, states, t - first, 1, t), kLogitTolerance) << "token " << t;
  }
}

INSTANTIATE_TEST_SUITE_P(Families, DecoderOfFamily, testing::ValuesIn(tiny_model_names()), [](const auto& i) {
  std::string name = i.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

TEST(Decoder, DynamicRotationFollowsTheLength) {
  const auto source = ModelSource::open(tiny_model("llama-dynamic"));
  const Head head(*source);
  for (const std::string prefix : {"", "short."}) {
    const GoldenLogits golden("llama-dynamic", prefix);
    const std::vector<int32_t>& ids = golden.ids[0];
    DecoderOptions options;
    options.capacity = static_cast<int64_t>(ids.size());
    Decoder decoder(*source, options);
    Matrix states;
    // Below the trained length the cache may be used; beyond it only a whole pass equals transformers' whole pass.
    const size_t piece = prefix.empty() ? ids.size() : ids.size() / 2;
    for (size_t first = 0; first < ids.size(); first += piece) {
      const int64_t lengths[] = {static_cast<int64_t>(piece)};
      decoder.run(std::span(ids).subspan(first, piece), lengths, states);
      for (size_t t = 0; t < piece; ++t)
        EXPECT_LE(worst(golden, head, states, t, 0, first + t), kLogitTolerance) << prefix << first + t;
    }
  }
}

TEST(Decoder, APromptStopsWhereTheCallerAsks) {
  const auto source = ModelSource::open(tiny_model("llama"));
  DecoderOptions options;
  options.capacity = 8;
  Decoder decoder(*source, options);
  Matrix states;
  const std::vector<int32_t> ids{1, 2, 3};
  set_interrupt_check([]() noexcept { return true; });
  EXPECT_FALSE(read_prompt(decoder, ids, states));
  set_interrupt_check(nullptr);
  EXPECT_TRUE(read_prompt(decoder, ids, states));
}

TEST(Decoder, RowsDoNotDependOnTheirNeighboursWithAvx512) {
  const std::string isa = gemm_isa_name();
  // kernels/gemm.h: tiles of AMX take rows together.
  if (isa.find("avx512") == std::string::npos || isa.find("amx") != std::string::npos)
    GTEST_SKIP() << "promised for AVX-512 without AMX only, this is " << isa;
  const GoldenLogits golden("llama");
  const auto source = ModelSource::open(tiny_model("llama"));
  const auto run = [&](int64_t sequences) {
    DecoderOptions options;
    options.sequences = sequences;
    options.capacity = 20;
    options.precision = MatmulPrecision::kBF16;
    options.cache = KvType::kF16;
    Decoder decoder(*source, options);
    Matrix states;
    for (int64_t t = 0; t < 20; ++t) {
      std::vector<int32_t> ids;
      for (int64_t s = 0; s < sequences; ++s)
        ids.push_back(golden.ids[static_cast<size_t>(s % 2)][static_cast<size_t>(t)]);
      decoder.run(ids, std::vector<int64_t>(ids.size(), 1), states);
    }
    return std::vector<float>(states.row(0).begin(), states.row(0).end());
  };
  const auto alone = run(1);
  for (const int64_t sequences : {2, 7, 33}) EXPECT_EQ(run(sequences), alone) << sequences;
}

TEST(Decoder, ThreadsDoNotChangeTheResult) {
  const GoldenLogits golden("gemma3");
  const auto source = ModelSource::open(tiny_model("gemma3"));
  std::optional<ThreadCount> thread_count;
  std::vector<std::vector<float>> results;
  for (const int n : {1, 2, 3}) {
    thread_count.emplace(n);
    DecoderOptions options;
    options.capacity = 24;
    Decoder decoder(*source, options);
    Matrix states;
    const int64_t lengths[] = {24};
    decoder.run(golden.ids[0], lengths, states);
    results.emplace_back(states.values().begin(), states.values().end());
  }
  thread_count.reset();
  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(results[0], results[2]);
}

TEST(Decoder, ResetForgets) {
  const GoldenLogits golden("qwen2");
  const auto source = ModelSource::open(tiny_model("qwen2"));
  const Head head(*source);
  DecoderOptions options;
  options.sequences = 2;
  options.capacity = 10;
  Decoder decoder(*source, options);
  Matrix states;
  decoder.run(std::vector<int32_t>(10, 5), std::vector<int64_t>{3, 7}, states);
  decoder.reset(6);
  const int64_t lengths[] = {0, 6};
  decoder.run(std::span(golden.ids[0]).first(6), lengths, states);
  EXPECT_LE(worst(golden, head, states, 5, 0, 5), kLogitTolerance);
}

TEST(Decoder, TruncatedSequencesGoOnFromThere) {
  const GoldenLogits golden("gemma3");
  const auto source = ModelSource::open(tiny_model("gemma3"));
  const Head head(*source);
  DecoderOptions options;
  options.sequences = 2;
  options.capacity = 24;
  Decoder decoder(*source, options);
  Matrix states;
  decoder.run(std::span(golden.ids[0]).first(9), std::vector<int64_t>{0, 9}, states);
  decoder.run(std::vector<int32_t>(4, 5), std::vector<int64_t>{2, 2}, states);
  decoder.truncate(1, 9);
  decoder.run(std::span(golden.ids[0]).subspan(9, 1), std::vector<int64_t>{0, 1}, states);
  EXPECT_LE(worst(golden, head, states, 0, 0, 9), kLogitTolerance);
  EXPECT_THROW(decoder.truncate(2, 0), ArgumentError);
}

TEST(Decoder, RefusesWhatDoesNotFit) {
  const auto source = ModelSource::open(tiny_model("llama"));
  DecoderOptions options;
  options.sequences = 2;
  options.capacity = 4;
  Decoder decoder(*source, options);
  Matrix states;
  const auto run = [&](std::vector<int32_t> ids, std::vector<int64_t> lengths) { decoder.run(ids, lengths, states); };
  EXPECT_THROW(run({1, 1, 1, 1, 1}, {5}), ArgumentError);
  EXPECT_THROW(run({1, 1, 1}, {1, 1, 1}), ArgumentError);
  EXPECT_THROW(run({1, 1}, {1}), ArgumentError);
  EXPECT_THROW(run({96}, {1}), ArgumentError);
  run({1, 1, 1, 1}, {3, 1});
  EXPECT_THROW(run({1, 1}, {2}), ArgumentError);
}

}  // namespace
}  // namespace metal_marlin

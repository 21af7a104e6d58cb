#include "infer/batch_sampler.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>

#include "checkpoint/model_source.h"
#include "core/threads.h"
#include "infer/tiny_models.h"
#include "kernels/gemm.h"
#include "tokenizer/tokenizer.h"

namespace metal_marlin {
namespace {

using namespace test;
using Sequences = std::vector<std::vector<int32_t>>;

struct Sampled {
  std::unique_ptr<ModelSource> source;
  explicit Sampled(const std::string& name) : source(ModelSource::open(tiny_model(name))) {}
  Sequences operator()(const SelfTextOptions& options) const {
    return sample_sequences(*source, source->tokenizer(), options);
  }
};

SelfTextOptions small_options(int64_t count, int64_t length) {
  SelfTextOptions options;
  options.count = count;
  options.length = length;
  options.seed = 11;
  return options;
}

TEST(BatchSampler, GivesTheSequencesAskedFor) {
  const Sampled sampled("llama");
  int64_t last = -1;
  int64_t total = 0;
  const auto sequences = sample_sequences(*sampled.source, sampled.source->tokenizer(), small_options(5, 40),
                                          [&](int64_t done, int64_t all) {
                                            EXPECT_GE(done, last);
                                            last = done;
                                            total = all;
                                          });
  EXPECT_EQ(last, total);
  ASSERT_EQ(sequences.size(), 5u);
  for (const auto& s : sequences) {
    EXPECT_EQ(s.size(), 40u);
    for (const int32_t token : s) {
      EXPECT_GE(token, 0);
      EXPECT_LT(token, sampled.source->config().vocab_size);
    }
  }
  EXPECT_EQ(std::set<std::vector<int32_t>>(sequences.begin(), sequences.end()).size(), 5u);
}

TEST(BatchSampler, SeedDecides) {
  const Sampled sampled("qwen3");
  SelfTextOptions options = small_options(3, 30);
  const auto first = sampled(options);
  EXPECT_EQ(sampled(options), first);
  options.seed = 12;
  EXPECT_NE(sampled(options), first);
}

TEST(BatchSampler, ThreadsDoNotChangeTheText) {
  const Sampled sampled("mistral");
  std::optional<ThreadCount> thread_count;
  thread_count.emplace(1);
  const auto one = sampled(small_options(6, 30));
  thread_count.emplace(3);
  const auto three = sampled(small_options(6, 30));
  thread_count.reset();
  EXPECT_EQ(one, three);
}

TEST(BatchSampler, ASequenceDoesNotDependOnTheOthers) {
  if (gemm_isa_name().find("avx512") == std::string::npos) GTEST_SKIP() << "promised for AVX-512 only";
  const Sampled sampled("llama");
  const auto many = sampled(small_options(70, 30));  // two groups
  for (const int64_t count : {1, 7, 65}) {
    const auto few = sampled(small_options(count, 30));
    for (size_t i = 0; i < few.size(); ++i) EXPECT_EQ(few[i], many[i]) << count << " " << i;
  }
  // The beginning does not depend on the length.
  const auto shorter = sampled(small_options(4, 12));
  for (size_t i = 0; i < shorter.size(); ++i)
    EXPECT_TRUE(std::equal(shorter[i].begin(), shorter[i].end(), many[i].begin()));
}

TEST(BatchSampler, LittleMemoryGivesTheSameText) {
  if (gemm_isa_name().find("avx512") == std::string::npos) GTEST_SKIP() << "promised for AVX-512 only";
  const Sampled sampled("llama");
  SelfTextOptions options = small_options(9, 30);
  const auto expected = sampled(options);
  // The least budget that is accepted: one sequence at a time, no layer kept.
  options.memory_bytes = 1;
  while (true) {
    try {
      plan_self_text(*sampled.source, options);
      break;
    } catch (const SystemError&) {
      options.memory_bytes += 4096;
      if (options.memory_bytes < (uint64_t{128} << 20)) options.memory_bytes = uint64_t{128} << 20;
    }
  }
  const SelfTextPlan plan = plan_self_text(*sampled.source, options);
  EXPECT_LT(plan.group, 9);
  EXPECT_LT(plan.resident_layers, sampled.source->config().num_hidden_layers);
  EXPECT_EQ(sampled(options), expected);
}

TEST(BatchSampler, BeginsWithBosOrAWord) {
  const Sampled sampled("llama");
  SelfTextOptions options = small_options(4, 8);
  options.bos = 0;
  for (const auto& s : sampled(options)) EXPECT_EQ(s[0], 0);
  options.bos = -1;
  for (const auto& s : sampled(options)) {
    const std::string text = sampled.source->tokenizer().decode(std::span(s).first(1), true);
    EXPECT_TRUE(std::any_of(text.begin(), text.end(), [](unsigned char c) {
      return std::isalpha(c) != 0 || c >= 0x80;
    })) << text;
  }
}

TEST(BatchSampler, AfterAnEndTokenComesANewStart) {
  const Sampled sampled("llama");
  const int32_t end = sampled.source->config().eos_token_ids.at(0);
  SelfTextOptions options = small_options(32, 60);
  options.bos = 0;
  options.temperature = 30;  // nearly even over the vocabulary
  int ends = 0;
  for (const auto& s : sampled(options)) {
    for (size_t i = 0; i + 1 < s.size(); ++i) {
      if (s[i] != end) continue;
      ++ends;
      EXPECT_EQ(s[i + 1], 0);
    }
  }
  EXPECT_GT(ends, 0);
}

TEST(BatchSampler, LoopsAreFound) {
  std::vector<int32_t> tokens;
  for (int i = 0; i < 100; ++i) tokens.push_back(i * i);
  EXPECT_FALSE(ends_in_loop(tokens));
  for (int i = 0; i < 31; ++i) tokens.push_back(7);
  EXPECT_FALSE(ends_in_loop(tokens));
  tokens.push_back(7);
  EXPECT_TRUE(ends_in_loop(tokens));
  tokens.clear();
  for (int i = 0; i < 48; ++i) tokens.push_back(i % 16);
  EXPECT_TRUE(ends_in_loop(tokens));
  tokens.pop_back();
  EXPECT_FALSE(ends_in_loop(tokens));
  tokens.clear();
  for (int i = 0; i < 200; ++i) tokens.push_back(i % 17);
  EXPECT_FALSE(ends_in_loop(tokens));
}

TEST(BatchSampler, PlanKeepsWithinTheBudget) {
  const Sampled sampled("llama");
  SelfTextOptions options;
  for (const uint64_t mib : {140u, 200u, 1000u}) {
    options.memory_bytes = mib << 20;
    const SelfTextPlan plan = plan_self_text(*sampled.source, options);
    EXPECT_LE(plan.bytes(), options.memory_bytes);
    EXPECT_GE(plan.group, 1);
  }
}

TEST(BatchSampler, RefusesOptionsOutOfRange) {
  const Sampled sampled("llama");
  EXPECT_THROW(sampled(small_options(0, 10)), ArgumentError);
  EXPECT_THROW(sampled(small_options(2, 1)), ArgumentError);
  SelfTextOptions options = small_options(2, 10);
  options.temperature = 0;
  EXPECT_THROW(sampled(options), ArgumentError);
  options = small_options(2, 10);
  options.bos = 96;
  EXPECT_THROW(sampled(options), ArgumentError);
  options = small_options(2, 10);
  options.memory_bytes = 1;
  EXPECT_THROW(sampled(options), SystemError);
}

}  // namespace
}  // namespace metal_marlin

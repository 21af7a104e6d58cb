// Choosing the next token from logits. The samplers and their order are those of llama.cpp: repeat penalty, top-k,
// top-p, min-p, temperature, draw.
#pragma once

#include <metal_marlin/generate.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/random.h"

namespace metal_marlin {

struct SamplingOptions {
  double temp = 0.8;            // 0: greedy, the most likely token (of equal ones the lowest id)
  int64_t top_k = 40;           // only the k most likely; 0: off
  double top_p = 0.95;          // the fewest tokens whose probabilities reach p; 1: off
  double min_p = 0.05;          // only tokens with at least min_p of the largest probability; 0: off
  double repeat_penalty = 1.0;  // logits of tokens seen lately: divided when positive, multiplied when negative
  int64_t repeat_last_n = 64;   // how many tokens count as lately; 0: none, -1: all
};
// ArgumentError that names the option which is out of the range of its table.
SamplingOptions sampling_options(const GenerateOptions& options);

struct TokenProbability {
  int32_t token = 0;
  double probability = 0;
};

// Holds scratch memory; one per thread.
class Sampler {
 public:
  // `options` within the ranges that sampling_options() checks. `model`: whose logits these are, for messages.
  explicit Sampler(const SamplingOptions& options, std::string model = "the model");

  // Returns the tokens that may follow and their probabilities (sum 1), most likely first, equal ones by id. `history`
  // is the prompt and the tokens generated so far, for the penalty. Top-p and min-p use the probabilities before the
  // temperature. Throws NumericError when a logit is NaN or +infinity, or all are -infinity. The span is valid until
  // the next call.
  std::span<const TokenProbability> distribution(std::span<const float> logits, std::span<const int32_t> history);
  // Draws from distribution(). Takes one number from `random`, or none when greedy.
  int32_t sample(std::span<const float> logits, std::span<const int32_t> history, Random& random);

 private:
  void penalize(std::span<const int32_t> history);

  SamplingOptions options_;
  std::string model_;
  std::vector<float> logits_;  // a copy, where the penalty changes it
  std::vector<TokenProbability> candidates_;
};

}  // namespace metal_marlin

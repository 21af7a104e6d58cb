// Calibration text that the model writes itself. Many sequences are sampled at once, with one forward pass of all of
// them per token.
//
// A sequence begins with the BOS token or, without one, with a word drawn evenly from the vocabulary, which makes the
// sequences differ. The following tokens are drawn from the model's own distribution, without its unlikely tail.
// Source: LLM-QAT, arXiv 2305.17888, section 3.1. Its first tokens are greedy; here the first few are drawn at a raised
// temperature, because the start decides the topic and this text is to cover many topics. After an end token, or when
// the text has run into a loop, a new text begins, so that every sequence has the full length. It does not see the text
// before, because a model that sees it imitates its shortness or its loop.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace metal_marlin {

class ModelSource;
class Tokenizer;

struct SelfTextOptions {
  int64_t count = 128;       // sequences
  int64_t length = 512;      // tokens each, >= 2
  double temperature = 1.0;  // > 0
  uint64_t seed = 0;
  int32_t bos = -1;  // BOS token to begin with; -1: a word of the vocabulary
  uint64_t memory_bytes =
      0;  // what the process may use, from which a fixed allowance for the program is taken; 0: no limit
};

// Samples the sequences. `progress` is called before each step with the steps done and in all; it may throw to stop.
// Where PackedWeight::multiply promises that rows do not depend on each other, sequence i depends only on the
// model, temperature, seed, bos and i, and a shorter length gives its beginning. Elsewhere it depends on count, length
// and memory_bytes too. Throws ArgumentError for options out of range, and SystemError when the memory is too small for
// one sequence.
std::vector<std::vector<int32_t>> sample_sequences(
    const ModelSource& source, const Tokenizer& tokenizer, const SelfTextOptions& options,
    const std::function<void(int64_t done, int64_t total)>& progress = {});

// How sample_sequences divides its memory.
struct SelfTextPlan {
  int64_t group = 0;            // sequences sampled at once
  int64_t resident_layers = 0;  // the others are loaded again at every step: slow
  uint64_t weight_bytes = 0;
  uint64_t cache_bytes = 0;
  uint64_t other_bytes = 0;  // head, logits, one block while it is packed
  uint64_t bytes() const noexcept { return weight_bytes + cache_bytes + other_bytes; }
};
SelfTextPlan plan_self_text(const ModelSource& source, const SelfTextOptions& options);

// Returns the bytes that sampling needs beside the program.
uint64_t self_text_bytes(const ModelSource& source, uint64_t memory_bytes, int64_t count, int64_t length);

// True when `tokens` ends in repetitions of one piece of at most 16 tokens: at least three times, and 32 tokens in all.
bool ends_in_loop(const std::vector<int32_t>& tokens);

}  // namespace metal_marlin

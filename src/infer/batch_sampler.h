// Calibration text that the model writes itself: many sequences sampled at once, one forward of all of them per token.
//
// A sequence begins with the BOS token or, without one, with a word drawn evenly from the vocabulary, which makes the
// sequences differ; the following tokens are drawn from the model's own distribution (source: LLM-QAT, arXiv
// 2305.17888, section 3.1, whose first tokens are greedy; here the first few are drawn at a raised temperature instead,
// since the start decides the topic and this text is to cover many). The unlikely tail is cut off. After an end token,
// or when the text has run into a loop, a new text is begun that does not see the one before (seeing it, a model takes
// after its shortness or its loop), so that every sequence has the full length.
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
      0;  // that the process may use, beside which a fixed allowance for the program is left; 0: enough
};

// `progress` is called before each step with the steps done and in all; it may throw to stop. Sequence i depends on the
// model, temperature, seed, bos and i alone (and the length as far as it goes) where PackedWeight::multiply promises
// that rows do not depend on each other (AVX-512), otherwise on count, length and memory_bytes too.
// ArgumentError for options out of range; SystemError when the memory is too small for one sequence.
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

// Bytes that sampling needs beside the program.
uint64_t self_text_bytes(const ModelSource& source, uint64_t memory_bytes, int64_t count, int64_t length);

// True when the end of `tokens` is one piece of at most 16 tokens over and over: at least three times, 32 tokens in
// all.
bool ends_in_loop(const std::vector<int32_t>& tokens);

}  // namespace metal_marlin

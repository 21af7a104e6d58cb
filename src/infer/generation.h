// One text that is being generated: how many tokens, which token next, what may be shown, when it ends. Whoever
// computes the logits, for one text or for many in a batch, drives it.
#pragma once

#include <metal_marlin/generate.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/random.h"
#include "infer/sampling.h"
#include "infer/stop_strings.h"
#include "tokenizer/grammar.h"
#include "tokenizer/tokenizer.h"

namespace metal_marlin {

class ModelSource;

// Every token that ends a text of the model; some may be there twice.
std::vector<int32_t> end_tokens(const ModelSource& source);

// Tokens of prompt and text at most: as asked for, or what the model was made for, to a limit.
int64_t context_of(const ModelSource& source, const GenerateOptions& options);

constexpr int64_t kMostDrafts = 32;  // GenerateOptions::speculate

class Generation {
 public:
  // `tokens` is the prompt. Checks the options and calls on_warning about those without effect and about texts longer
  // than the model was made for. Throws ArgumentError for an option out of range, an empty prompt and one longer than
  // the context. The source must outlive this. `grammar`: of options.json_schema.
  Generation(const ModelSource& source, std::vector<int32_t> tokens, const GenerateOptions& options,
             std::function<bool(const std::string&)> on_text = {}, std::optional<Grammar> grammar = {});

  // Chooses the next token by logits [vocab] of the last one. Returns whether the text goes on.
  bool take(std::span<const float> logits);
  // Cuts drafts [n] of the tokens to come where the grammar forbids one.
  void cut(std::vector<int32_t>& drafts);
  // Shows what is still held back. To be called once, at the end.
  void finish();

  const std::vector<int32_t>& tokens() const noexcept { return tokens_; }  // the prompt, and what came after it
  const std::string& text() const noexcept { return text_; }
  int64_t most() const noexcept { return most_; }  // tokens to generate at most
  GenerateStats& stats() noexcept { return stats_; }

 private:
  void emit(const std::string& piece);

  const ModelSource& source_;
  std::vector<int32_t> tokens_;
  std::vector<int32_t> ends_;
  bool ignore_eos_;
  int64_t most_ = 0;
  Sampler sampler_;
  Random random_;
  StreamDecoder stream_;
  StopStrings stops_;
  std::function<bool(const std::string&)> on_text_;
  std::function<void(const std::string&)> on_warning_;
  std::optional<Grammar> grammar_;
  std::vector<float> masked_;  // logits, by the grammar
  std::string text_;
  GenerateStats stats_;
};

}  // namespace metal_marlin

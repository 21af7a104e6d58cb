// Runs a model: text in, text out. The options have llama.cpp's names.
#pragma once

#include <metal_marlin/compute.h>
#include <metal_marlin/export.h>
#include <metal_marlin/options.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace metal_marlin {

struct GenerateOptions {
  int64_t predict = 128;  // tokens at most; -1: until the end token or a full context
  int64_t context = 0;    // 0: the model's own, at most 4096
  double temp = 0.8;      // 0: greedy
  int64_t top_k = 40;     // 0: off
  double top_p = 0.95;    // 1: off
  double min_p = 0.05;    // 0: off
  double repeat_penalty = 1.0;
  int64_t repeat_last_n = 64;
  uint64_t seed = 0;
  bool ignore_eos = false;
  // Called with one line without a newline, e.g. when the context exceeds what the model was made for.
  std::function<void(const std::string&)> on_warning;
  // The options that the caller set, by their command-line names without leading hyphens ("top-k"). A warning names
  // those that have no effect beside the others (temp 0 switches sampling off). It also names options without effect
  // that differ from their defaults.
  std::vector<std::string> given;
};

struct GenerateStats {
  int64_t prompt_tokens = 0;
  int64_t generated_tokens = 0;
  double load_seconds = 0;
  double prompt_seconds = 0;
  double generate_seconds = 0;
  std::string stop;  // "eos", "length", "caller"
};

// A model held in memory. Not thread-safe: one generation at a time.
class METAL_MARLIN_API TextGenerator {
 public:
  // With `for_chat` a model without a chat template is refused (UnsupportedError) before its weights are loaded.
  // ArgumentError for unknown names in `compute`, UnsupportedError where it asks for int8 and the model has no codes.
  explicit TextGenerator(const std::string& model, const MachineOptions& machine = {}, bool for_chat = false,
                         const ComputeOptions& compute = {});
  ~TextGenerator();
  TextGenerator(TextGenerator&&) noexcept;

  // Whether the model has a template for conversations: chat() answers by it, generate() does without.
  bool has_chat_template() const;
  // Continues `prompt`. on_text gets each piece of text, always whole UTF-8 characters, as it is generated, and may
  // return false to stop.
  std::string generate(const std::string& prompt, const GenerateOptions& options,
                       const std::function<bool(const std::string&)>& on_text = {}, GenerateStats* stats = nullptr);
  // Answers a conversation of (role, content), written out by the model's chat template. Throws UnsupportedError when
  // it has none.
  std::string chat(const std::vector<std::pair<std::string, std::string>>& messages, const GenerateOptions& options,
                   const std::function<bool(const std::string&)>& on_text = {}, GenerateStats* stats = nullptr);

 private:
  struct METAL_MARLIN_LOCAL Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace metal_marlin

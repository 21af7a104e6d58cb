// Runs a model: text in, text out. The options have llama.cpp's names.
#pragma once

#include <metal_marlin/compute.h>
#include <metal_marlin/export.h>
#include <metal_marlin/options.h>
#include <metal_marlin/record.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace metal_marlin {

// ArgumentError for what is out of range. A warning names options that differ from their defaults and have no effect
// beside the others (temp 0 switches sampling off).
struct GenerateOptions {
  int64_t predict = 128;  // tokens at most; -1: until the end token or a full context
  int64_t context = 0;    // 0: the model's own, at most 4096
  double temp = 0.8;      // 0: greedy
  int64_t top_k = 40;     // 0: off
  double top_p = 0.95;    // above 0; 1: off
  double min_p = 0.05;    // 0: off
  double repeat_penalty = 1.0;
  int64_t repeat_last_n = 64;  // tokens that the penalty looks back on; 0: none, -1: all
  uint64_t seed = 0;
  bool ignore_eos = false;
  std::vector<std::string> stop;  // the text ends before the first of these strings
  // Drafts: up to so many tokens that followed when the text before ended alike are computed in one step with the next
  // token, and kept as far as they are what would have been chosen. The text is the same; where texts repeat it comes
  // faster. 0: off, at most 32.
  int64_t speculate = 0;
  // The text of a JSON schema: the generated text is a JSON value that fits it (docs/generate.md says which keywords
  // are supported). FormatError for a schema that cannot be used, UnsupportedError for a tokenizer whose tokens do not
  // stand for bytes. The text then ends where the value may, also with ignore_eos; on_warning says where the limit of
  // tokens cuts it. Empty: no schema.
  std::string json_schema;
  std::string json_schema_name = "json_schema";  // what messages call it, such as its file
  // Called with one line without a newline, e.g. when the context exceeds what the model was made for.
  std::function<void(const std::string&)> on_warning;
};

// What is the same whenever the text is generated again; the file of a batch has it of each answer.
struct AnswerStats {
  int64_t prompt_tokens = 0;
  int64_t generated_tokens = 0;
  std::string stop;

  static void describe(auto& field, auto& self) {
    field("prompt_tokens", self.prompt_tokens, "of the prompt");
    field("generated_tokens", self.generated_tokens);
    field("stop", self.stop, "eos, length, string (one of GenerateOptions::stop) or caller");
  }
};

struct GenerateStats : AnswerStats {
  int64_t reused_tokens = 0;
  int64_t drafted_tokens = 0;
  int64_t accepted_tokens = 0;
  double load_seconds = 0;
  double prompt_seconds = 0;
  double generate_seconds = 0;

  static void describe(auto& field, auto& self) {
    AnswerStats::describe(field, self);
    field("reused_tokens", self.reused_tokens, "of the prompt: its beginning, which the last call had left in memory");
    field("drafted_tokens", self.drafted_tokens, "by speculation");
    field("accepted_tokens", self.accepted_tokens, "how many of these were kept");
    field("load_seconds", self.load_seconds, "of the model");
    field("prompt_seconds", self.prompt_seconds, "reading the prompt");
    field("generate_seconds", self.generate_seconds, "behind the prompt");
  }
};

// One text of a batch: a prompt to continue, or a conversation of (role, content) to answer.
struct BatchRequest {
  std::string prompt;
  std::vector<std::pair<std::string, std::string>> messages;  // where not empty, instead of the prompt
  GenerateOptions options;                                    // speculate must be 0
};

struct BatchAnswer {
  std::string text;
  std::string error;  // why there is no text, else empty
  GenerateStats stats;
};

// A model held in memory. Not thread-safe: one generation at a time. The keys and values of a call stay: the longest
// common beginning of the next prompt is not computed again, and the answer is that of a fresh start.
class METAL_MARLIN_API TextGenerator {
 public:
  // With `for_chat` a model without a chat template is refused (UnsupportedError) before its weights are loaded.
  // UnsupportedError where `compute` asks for int8 and the model has no codes.
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

  // Generates for many requests, up to `sequences` (1 to 1024) beside each other, so that the weights are read once for
  // all of them. on_answer gets the number of the request and its answer, in the order in which they end, and may
  // return false to stop. A request that cannot be answered (a prompt that is too long, a template that refuses it, an
  // option out of range) has `error` set; the others are answered. With the int8 arithmetic each text is the one that
  // generate() or chat() gives. Throws Interrupted as set_interrupt_check() says, and where `on_step`, which is called
  // before each step, returns false.
  void batch(const std::vector<BatchRequest>& requests, int64_t sequences,
             const std::function<bool(size_t, const BatchAnswer&)>& on_answer,
             const std::function<bool()>& on_step = {});

  // The tokens of a text. `special`: with what the tokenizer puts before and after any text, as generate() reads it.
  std::vector<int32_t> tokenize(const std::string& text, bool special = true) const;
  // The text of tokens, special tokens included.
  std::string detokenize(const std::vector<int32_t>& tokens) const;
  int64_t vocab_size() const noexcept;  // logits of a token; a vocabulary may have fewer tokens
  // The logits [tokens, vocab_size()] behind each of `tokens`, in the arithmetic that the model was loaded with.
  // ArgumentError for no tokens, for more than the model has positions and for ids out of range. Throws Interrupted as
  // set_interrupt_check() says.
  std::vector<float> logits(const std::vector<int32_t>& tokens);

 private:
  struct METAL_MARLIN_LOCAL Impl;
  std::unique_ptr<Impl> impl_;
};

struct BatchFileResult {
  int64_t answered = 0;
  std::vector<std::string> failures;  // "FILE, line N: reason" for each line that has no answer
};

// TextGenerator::batch() over a file. Each line of `input` is a JSON object with "prompt", or "messages" (a list of
// {"role", "content"}), and, where it differs from `defaults`, "max_tokens", "temperature", "top_k", "top_p", "min_p",
// "seed", "stop" (a text or a list), "json_schema" (an object); "id" is copied into the answer, other keys are ignored,
// empty lines too. `output` gets an object for each of them, in their order: "line" (from 1), "id", then "text",
// "prompt_tokens", "generated_tokens", "stop", or "error". It appears whole or not at all. Throws SystemError for files
// that cannot be read or written, FormatError for a file that is not UTF-8, has no line or has one of more than 32 MiB,
// Interrupted.
METAL_MARLIN_API BatchFileResult generate_file(TextGenerator& generator, const std::string& input,
                                               const std::string& output, const GenerateOptions& defaults,
                                               int64_t sequences,
                                               const std::function<void(size_t done, size_t total)>& on_progress = {});

}  // namespace metal_marlin

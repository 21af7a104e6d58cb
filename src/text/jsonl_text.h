// Calibration text from JSON Lines. Conversations are written out by the model's chat template; plain texts are taken
// as they are.
//
// Each line that is not blank is an object with one of
//   "messages":      [{"role": "user", "content": "..."}, ...]      as OpenAI and Hugging Face have them. "content" may
//                    be null where "tool_calls" are there; further keys reach the template, as "tools" of the line does
//   "conversations": [{"from": "human", "value": "..."}, ...]       ShareGPT; from: system, human, user, gpt, chatgpt,
//                    assistant, tool, function, observation
//   "text":          "..."                                           taken as it is; a blank line goes between texts
// Other keys are ignored. The tokens of the documents follow each other in the order of the lines.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace metal_marlin {

class ChatTemplate;
class Tokenizer;

class JsonlText {
 public:
  // Error messages begin with `file`.
  JsonlText(std::string file, const Tokenizer& tokenizer);
  ~JsonlText();
  JsonlText(const JsonlText&) = delete;
  JsonlText& operator=(const JsonlText&) = delete;

  // Returns the text of one line. `line` has no line end; `number` counts from 1. Throws FormatError "FILE:LINE:
  // expected ..., found ...", and UnsupportedError for a conversation when the model has no chat template. Templates
  // that ask for the date get a fixed one (26 July 2024), so that the same file gives the same text every day.
  std::string render(std::string_view line, int64_t number);

 private:
  std::string file_;
  const Tokenizer& tokenizer_;
  std::unique_ptr<ChatTemplate> template_;
};

// Returns the tokens of a file's documents. The only special tokens are those that the template and the texts write
// out. Reading stops after the document that brings the number of tokens to `most` (within one of more than 256 KiB),
// so what is wrong behind it goes unnoticed; memory does not grow with the file. `memory` is that of text_ends().
// Throws as JsonlText does, FormatError when the file has no document, and SystemError when it cannot be read.
std::vector<int32_t> tokenize_jsonl(const std::string& path, const Tokenizer& tokenizer, int64_t most,
                                    uint64_t memory = 0);

}  // namespace metal_marlin

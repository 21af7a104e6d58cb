// Calibration text from JSON Lines: conversations, written out by the model's chat template, and plain texts.
//
// Each line that is not blank is an object with one of
//   "messages":      [{"role": "user", "content": "..."}, ...]      as OpenAI and Hugging Face have them. "content" may
//                    be null where "tool_calls" are there; further keys reach the template, as "tools" of the line does
//   "conversations": [{"from": "human", "value": "..."}, ...]       ShareGPT; from: system, human, user, gpt, chatgpt,
//                    assistant, tool, function, observation
//   "text":          "..."                                           taken as it is; a blank line goes between texts
// Other keys are passed over. The documents' tokens follow each other in the order of the lines.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace metal_marlin {

class ChatTemplate;
class Tokenizer;

// Longer lines are refused: a parsed line takes many times its size.
inline constexpr size_t kLongestJsonlLine = size_t{16} << 20;

class JsonlText {
 public:
  // `file` opens the messages.
  JsonlText(std::string file, const Tokenizer& tokenizer);
  ~JsonlText();
  JsonlText(const JsonlText&) = delete;
  JsonlText& operator=(const JsonlText&) = delete;

  // The text of one line (its number from 1), without its end. FormatError "FILE:LINE: expected ..., found ...";
  // UnsupportedError for a conversation where the model has no chat template. Templates that ask for the date see a
  // fixed one (26 July 2024), so that the same file gives the same text every day.
  std::string render(std::string_view line, int64_t number);

 private:
  std::string file_;
  const Tokenizer& tokenizer_;
  std::unique_ptr<ChatTemplate> template_;
};

// Tokens of a file's documents, no special tokens but those that template and texts write out. Reading ends with the
// document that brings the number of tokens to `most`. As JsonlText; FormatError when no document is there;
// SystemError when the file cannot be read.
std::vector<int32_t> tokenize_jsonl(const std::string& path, const Tokenizer& tokenizer, int64_t most);

}  // namespace metal_marlin

// A conversation written out as the model was trained to read it: the Jinja template that comes with the tokenizer.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace metal_marlin {

struct ChatMessage {
  std::string role;  // "system", "user", "assistant", ...
  std::string content;
};

// Renders as transformers' apply_chat_template does. May be used from many threads at once.
class ChatTemplate {
 public:
  // Variables of the template that name special tokens; an empty one is left undefined.
  struct Tokens {
    std::string bos, eos, unk, pad;
  };

  // Throws UnsupportedError when `source` is empty: the model has no chat template; FormatError when it cannot be
  // parsed, or names a filter or test that is unknown. `place`: where it stands, which opens the messages about it.
  ChatTemplate(std::string source, Tokens tokens, std::string place = "chat template");
  explicit ChatTemplate(const Tokenizer& tokenizer);

  // `messages`: the JSON text of an array of objects with "role" and "content" (more keys, such as "tool_calls", reach
  // the template). `variables`: the JSON text of an object of further variables ("tools", "enable_thinking", ...), or
  // empty. Keys keep their order: templates that print tools depend on it. The result already holds its special tokens:
  // encode it without adding more. Throws ArgumentError with the template's own words when it refuses the conversation,
  // FormatError when the template takes more memory or time than any in use.
  std::string apply_text(std::string_view messages, bool add_generation_prompt, std::string_view variables = {}) const;

  // The same for values whose order of keys does not matter (nlohmann::json sorts them).
  std::string apply(const nlohmann::json& messages, bool add_generation_prompt, const nlohmann::json& variables) const;
  std::string apply(const nlohmann::json& messages, bool add_generation_prompt) const;
  std::string apply(const std::vector<ChatMessage>& messages, bool add_generation_prompt) const;

  // The moment, in seconds since 1970, that strftime_now shows; negative (the default): the system's clock.
  void set_now(int64_t seconds) noexcept { now_ = seconds; }

 private:
  std::string source_;
  Tokens tokens_;
  std::string place_;
  int64_t now_ = -1;
};

}  // namespace metal_marlin

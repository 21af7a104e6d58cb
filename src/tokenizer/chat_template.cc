#include "tokenizer/chat_template.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <nlohmann/json.hpp>
#include <utility>

#include "formats/json/bounded_json.h"
#include "tokenizer/tokenizer_c/tokenizer_c.h"
#include "tokenizer/tokenizer_faults.h"

namespace metal_marlin {
namespace {

using Json = nlohmann::ordered_json;

// The template's own reader allows 128 levels; a deeper value is refused here, before it is built.
constexpr JsonBounds kBounds = {.depth = 100, .keys = kMostOrderedKeys};

Json parse(std::string_view text, const char* what) {
  if (const auto excess = json_excess(text, kBounds))
    throw ArgumentError(fmt::format("{}: expected at most {}, found more", what, excess->bound));
  Json json = parse_ordered_json_or_discard(text);
  if (json.is_discarded()) throw ArgumentError(fmt::format("{}: not valid JSON", what));
  return json;
}

template <class T>
std::string dumped(const T& json) {
  try {
    return json.dump();
  } catch (const nlohmann::json::exception&) {
    throw ArgumentError("chat messages: a text is not UTF-8");
  }
}

}  // namespace

ChatTemplate::ChatTemplate(std::string source, Tokens tokens, std::string place)
    : source_(std::move(source)), tokens_(std::move(tokens)), place_(std::move(place)) {
  if (source_.empty())
    throw UnsupportedError(fmt::format(
        "the model has no chat template ({}): it was not trained for conversations; give it plain text to continue "
        "instead",
        place_.ends_with(": tokenizer.chat_template")
            ? place_ + " is missing"
            : "neither chat_template.jinja nor chat_template in tokenizer_config.json"));
  if (tokenizer_c_check_template(source_.data(), source_.size()) == 0) return;
  const std::string why = tokenizer_failure();
  if (why == "stopped") throw Interrupted("interrupted");
  throw FormatError(fmt::format("{}: {}", place_, why));
}

ChatTemplate::ChatTemplate(const Tokenizer& tokenizer)
    : ChatTemplate(tokenizer.chat_template(),
                   {tokenizer.bos_token(), tokenizer.eos_token(), tokenizer.unk_token(), tokenizer.pad_token()},
                   tokenizer.chat_template_place()) {}

std::string ChatTemplate::apply_text(std::string_view messages_text, bool add_generation_prompt,
                                     std::string_view variables_text) const {
  const Json messages = parse(messages_text, "chat messages");
  if (!messages.is_array()) throw ArgumentError("chat messages: expected an array of objects with role and content");
  for (size_t i = 0; i < messages.size(); ++i) {
    const auto& m = messages[i];
    if (!m.is_object() || !m.contains("role") || !m["role"].is_string())
      throw ArgumentError(fmt::format("chat message {}: expected an object with a \"role\" that is a string", i));
  }
  Json context{{"messages", messages},
               {"tools", nullptr},
               {"documents", nullptr},
               {"add_generation_prompt", add_generation_prompt}};
  const std::pair<const char*, const std::string&> named[] = {
      {"bos_token", tokens_.bos}, {"eos_token", tokens_.eos}, {"unk_token", tokens_.unk}, {"pad_token", tokens_.pad}};
  for (const auto& [name, token] : named)
    if (!token.empty()) context[name] = token;
  if (!variables_text.empty()) {
    const Json variables = parse(variables_text, "chat template variables");
    if (!variables.is_object() && !variables.is_null())
      throw ArgumentError("chat template variables: expected an object");
    for (const auto& [name, value] : variables.items()) context[name] = value;
  }
  const std::string text = dumped(context);
  const tokenizer_c_text out = tokenizer_c_render(source_.data(), source_.size(), text.data(), text.size(), now_);
  if (out.data == nullptr) {
    const std::string why = tokenizer_failure();
    if (why == "stopped") throw Interrupted("interrupted");
    // A template that raises an exception refuses the conversation; the other ends are the file's fault.
    const bool faulty = why.starts_with("the template cannot be parsed") || why.starts_with("it takes more than") ||
                        why.find("engine ran out of fuel") != std::string::npos || why.starts_with("unknown filter") ||
                        why.starts_with("unknown test") || why.starts_with("the library that reads it gives up");
    if (faulty) throw FormatError(fmt::format("{}: {}", place_, why));
    throw ArgumentError(fmt::format("{}: {}", place_, why));
  }
  std::string result(out.data, out.size);
  tokenizer_c_text_free(out);
  return result;
}

std::string ChatTemplate::apply(const nlohmann::json& messages, bool add_generation_prompt,
                                const nlohmann::json& variables) const {
  return apply_text(dumped(messages), add_generation_prompt, dumped(variables));
}

std::string ChatTemplate::apply(const nlohmann::json& messages, bool add_generation_prompt) const {
  return apply(messages, add_generation_prompt, nlohmann::json());
}

std::string ChatTemplate::apply(const std::vector<ChatMessage>& messages, bool add_generation_prompt) const {
  nlohmann::json list = nlohmann::json::array();
  for (const auto& m : messages) list.push_back({{"role", m.role}, {"content", m.content}});
  return apply(list, add_generation_prompt);
}

}  // namespace metal_marlin

#include "text/jsonl_text.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <utility>

#include "formats/json/bounded_json.h"
#include "formats/json/json_fault.h"
#include "formats/json/json_lines.h"
#include "formats/text.h"
#include "tokenizer/chat_template.h"
#include "tokenizer/text_stream.h"
#include "tokenizer/tokenizer.h"

namespace metal_marlin {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kTemplateDate = 1721952000;  // 2024-07-26, which Llama's own templates assume without a clock

// ShareGPT's names for the speakers, and the roles that chat templates know.
constexpr std::array<std::pair<const char*, const char*>, 9> kSpeakers = {{{"system", "system"},
                                                                           {"human", "user"},
                                                                           {"user", "user"},
                                                                           {"gpt", "assistant"},
                                                                           {"chatgpt", "assistant"},
                                                                           {"assistant", "assistant"},
                                                                           {"tool", "tool"},
                                                                           {"function", "tool"},
                                                                           {"observation", "tool"}}};

const char* kind_of(const Json& value) {
  if (value.is_null()) return "null";
  if (value.is_boolean()) return "true or false";
  if (value.is_number()) return "a number";
  if (value.is_string()) return "a string";
  if (value.is_array()) return value.empty() ? "an empty list" : "a list";
  return "an object";
}

// Throws FormatError: "FILE:LINE: " and what is wrong there.
class Place {
 public:
  Place(const std::string& file, int64_t line) : text_(fmt::format("{}:{}", file, line)) {}
  [[noreturn]] void fail(const std::string& expected, const std::string& found) const {
    throw FormatError(fmt::format("{}: expected {}, found {}", text_, expected, found));
  }
  const std::string& text() const noexcept { return text_; }

 private:
  std::string text_;
};

std::string required_string(const Place& place, const Json& object, const char* key, const std::string& where) {
  const auto it = object.find(key);
  if (it == object.end()) place.fail(fmt::format("\"{}\" in {}", key, where), "none");
  if (!it->is_string()) place.fail(fmt::format("a string as \"{}\" of {}", key, where), kind_of(*it));
  return it->get<std::string>();
}

const Json& list_of_objects(const Place& place, const Json& line, const char* key) {
  const Json& list = line.at(key);
  if (!list.is_array() || list.empty())
    place.fail(fmt::format("\"{}\" to be a list with at least one entry", key), kind_of(list));
  for (size_t i = 0; i < list.size(); ++i) {
    if (!list[i].is_object()) place.fail(fmt::format("an object as {}[{}]", key, i), kind_of(list[i]));
  }
  return list;
}

// Returns the content of a message as one string. A list of text parts becomes one line for each part.
std::string content_of(const Place& place, const Json& message, const std::string& where) {
  if (!message.contains("content") || !message["content"].is_array())
    return required_string(place, message, "content", where);
  std::string out;
  const Json& parts = message["content"];
  for (size_t i = 0; i < parts.size(); ++i) {
    const std::string part = fmt::format("{}.content[{}]", where, i);
    if (!parts[i].is_object()) place.fail("an object as " + part, kind_of(parts[i]));
    if (const std::string type = required_string(place, parts[i], "type", part); type != "text") {
      place.fail(fmt::format("\"type\" of {} to be text", part), shown(type));
    }
    if (i > 0) out += '\n';
    out += required_string(place, parts[i], "text", part);
  }
  return out;
}

Json checked_messages(const Place& place, const Json& line) {
  Json list = list_of_objects(place, line, "messages");
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string where = fmt::format("messages[{}]", i);
    required_string(place, list[i], "role", where);
    const bool calls = list[i].contains("tool_calls") && list[i]["tool_calls"].is_array();
    const bool no_content = !list[i].contains("content") || list[i]["content"].is_null();
    if (!(calls && no_content)) list[i]["content"] = content_of(place, list[i], where);
  }
  return list;
}

Json converted_conversation(const Place& place, const Json& line) {
  const Json& list = list_of_objects(place, line, "conversations");
  Json messages = Json::array();
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string where = fmt::format("conversations[{}]", i);
    const std::string from = required_string(place, list[i], "from", where);
    const auto speaker =
        std::find_if(kSpeakers.begin(), kSpeakers.end(), [&](const auto& s) { return from == s.first; });
    if (speaker == kSpeakers.end()) {
      std::string known;
      for (const auto& s : kSpeakers) known += (known.empty() ? "" : ", ") + std::string(s.first);
      place.fail(fmt::format("\"from\" of {} to be one of {}", where, known), shown(from));
    }
    messages.push_back({{"role", speaker->second}, {"content", required_string(place, list[i], "value", where)}});
  }
  return messages;
}

Json parse_line(const Place& place, std::string_view text) {
  if (text.size() > kLongestJsonLine) {
    place.fail(fmt::format("a line of at most {} MiB", kLongestJsonLine >> 20), "a longer one");
  }
  if (const auto excess = json_excess(text, kJsonLineBounds))
    place.fail(fmt::format("a JSON object of at most {}", excess->bound), "more");
  Json json = parse_ordered_json_or_discard(text);
  if (json.is_discarded()) {
    const JsonFault fault = find_json_fault(text).value();  // the same parser has refused the line
    throw FormatError(
        fmt::format("{}: expected a JSON object on each line; at byte {} of this one expected {}, found {}",
                    place.text(), fault.offset, fault.expected, fault.found));
  }
  if (!json.is_object()) place.fail("a JSON object", kind_of(json));
  return json;
}

// Tokenizing takes a hundred times the size of what is tokenized at once.
constexpr size_t kAtOnce = size_t{256} << 10;

// The ids of one document. Of a long one, only those of its beginning that bring their number to `most`.
void append_tokens(std::vector<int32_t>& ids, const std::string& text, const Place& place, const Tokenizer& tokenizer,
                   int64_t most, uint64_t memory) {
  if (text.size() <= kAtOnce) {
    const auto tokens = tokenizer.encode(text, false);
    ids.insert(ids.end(), tokens.begin(), tokens.end());
    return;
  }
  TokenStream stream(text, place.text(), tokenizer, largest_whole(memory));
  while (std::ssize(ids) < most && stream.next(ids, most - std::ssize(ids))) {
  }
}

}  // namespace

JsonlText::JsonlText(std::string file, const Tokenizer& tokenizer) : file_(std::move(file)), tokenizer_(tokenizer) {}
JsonlText::~JsonlText() = default;

std::string JsonlText::render(std::string_view text, int64_t number) {
  const Place place(file_, number);
  const Json line = parse_line(place, text);
  std::vector<std::string> kinds;
  for (const char* key : {"messages", "conversations", "text"}) {
    if (line.contains(key)) kinds.emplace_back(key);
  }
  if (kinds.size() != 1) {
    std::string found = kinds.empty() ? "none of them" : fmt::format("both \"{}\" and \"{}\"", kinds[0], kinds[1]);
    if (kinds.empty() && !line.empty()) found += fmt::format(" (the first key is {})", shown(line.begin().key()));
    place.fail("one of the keys \"messages\", \"conversations\" and \"text\"", found);
  }
  if (kinds[0] == "text") {
    const std::string plain = required_string(place, line, "text", "the line");
    return plain.find_first_not_of(" \t\r\n") == std::string::npos ? std::string() : plain + "\n\n";
  }
  const Json messages = kinds[0] == "messages" ? checked_messages(place, line) : converted_conversation(place, line);
  Json variables = Json::object();
  if (line.contains("tools")) variables["tools"] = line["tools"];
  try {
    if (!template_) {
      template_ = std::make_unique<ChatTemplate>(tokenizer_);
      template_->set_now(kTemplateDate);
    }
    return template_->apply_text(messages.dump(), false, variables.empty() ? std::string() : variables.dump());
  } catch (const UnsupportedError&) {
    throw UnsupportedError(fmt::format(
        "{}: a conversation needs the model's chat template, and the model has none (neither chat_template.jinja "
        "nor chat_template in tokenizer_config.json); give plain text, or lines of {{\"text\": \"...\"}}",
        place.text()));
  } catch (const ArgumentError& error) {
    throw FormatError(
        fmt::format("{}: expected a conversation that the model's chat template takes, found one that it refuses: {}",
                    place.text(), error.what()));
  }
}

std::vector<int32_t> tokenize_jsonl(const std::string& path, const Tokenizer& tokenizer, int64_t most,
                                    uint64_t memory) {
  JsonLines lines(path);
  JsonlText documents(path, tokenizer);
  std::vector<int32_t> ids;
  std::string_view line;
  while (static_cast<int64_t>(ids.size()) < most && lines.next(line)) {
    if (line.find_first_not_of(" \t") == std::string_view::npos) continue;
    const std::string text = documents.render(line, lines.number());
    append_tokens(ids, text, Place(path, lines.number()), tokenizer, most, memory);
  }
  if (ids.empty()) {
    throw FormatError(fmt::format(
        "{}: expected a JSON object on each line, with \"messages\", \"conversations\" or \"text\"; found no text",
        path));
  }
  return ids;
}

}  // namespace metal_marlin

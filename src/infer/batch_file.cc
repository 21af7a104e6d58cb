// Many prompts from a JSON Lines file, their answers into another.
#include <fmt/format.h>
#include <metal_marlin/error.h>
#include <metal_marlin/generate.h>

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "core/border.h"
#include "core/files/atomic_file.h"
#include "core/files/file_status.h"
#include "formats/json/bounded_json.h"
#include "formats/json/json_fault.h"
#include "formats/json/json_lines.h"
#include "records/json_writer.h"

namespace metal_marlin {
namespace {

// All requests are held at once, and the shortest take a thousand times the bytes of their lines.
constexpr size_t kMostLines = size_t{1} << 18;

// How each line of answers begins.
constexpr std::string_view kAnswerStart = R"({"line":)";

[[noreturn]] void wrong(const std::string& key, const std::string& expected, const nlohmann::json& found) {
  throw FormatError(fmt::format("\"{}\": expected {}, found {}", key, expected, found.type_name()));
}

template <class T>
void read_number(const nlohmann::json& line, const char* key, T& value) {
  const auto it = line.find(key);
  if (it == line.end() || it->is_null()) return;
  if constexpr (std::is_integral_v<T>) {
    if (!it->is_number_integer()) wrong(key, "a whole number", *it);
    if (it->is_number_unsigned() && it->template get<uint64_t>() > uint64_t{1} << 53) {
      throw FormatError(fmt::format("\"{}\": expected a number up to 2^53, found {}", key, it->dump()));
    }
  } else if (!it->is_number()) {
    wrong(key, "a number", *it);
  }
  value = it->template get<T>();
}

std::string text_of(const nlohmann::json& value, const char* key) {
  if (!value.is_string()) wrong(key, "a text", value);
  return value.get<std::string>();
}

// Without the hints of parse_json, which are about files.
nlohmann::json parse_line(std::string_view text) {
  if (const auto excess = json_excess(text, kJsonLineBounds))
    throw FormatError(fmt::format("expected a JSON object of at most {}, found more", excess->bound));
  nlohmann::json json = parse_json_or_discard(text);
  if (!json.is_discarded()) return json;
  const JsonFault fault = find_json_fault(text).value();  // the same parser has refused the line
  throw FormatError(fmt::format("expected a JSON object; at byte {} of this line expected {}, found {}", fault.offset,
                                fault.expected, fault.found));
}

// The object of a line's key as it is written there: a schema's properties come in the order in which it names them.
// `line` keeps to kJsonLineBounds.
std::string object_of(std::string_view line, const char* key) {
  return parse_ordered_json_or_discard(line).at(key).dump();
}

// `written` is the line's text.
BatchRequest request_of(const nlohmann::json& line, std::string_view written, const GenerateOptions& defaults) {
  if (!line.is_object()) throw FormatError(fmt::format("expected an object, found {}", line.type_name()));
  BatchRequest request;
  request.options = defaults;
  const auto prompt = line.find("prompt");
  const auto messages = line.find("messages");
  if ((prompt == line.end()) == (messages == line.end())) {
    throw FormatError("expected either \"prompt\" or \"messages\", found both or neither");
  }
  if (prompt != line.end()) {
    request.prompt = text_of(*prompt, "prompt");
  } else {
    if (!messages->is_array()) wrong("messages", "a list of messages", *messages);
    if (messages->empty()) throw FormatError("\"messages\": expected at least one message, found none");
    for (const nlohmann::json& message : *messages) {
      if (!message.is_object()) wrong("messages", "objects with role and content", message);
      request.messages.emplace_back(text_of(message.value("role", nlohmann::json()), "role"),
                                    text_of(message.value("content", nlohmann::json()), "content"));
    }
  }
  GenerateOptions& o = request.options;
  read_number(line, "max_tokens", o.predict);
  read_number(line, "temperature", o.temp);
  read_number(line, "top_k", o.top_k);
  read_number(line, "top_p", o.top_p);
  read_number(line, "min_p", o.min_p);
  read_number(line, "seed", o.seed);
  const auto schema = line.find("json_schema");
  if (schema != line.end() && !schema->is_null()) {
    if (!schema->is_object()) wrong("json_schema", "an object", *schema);
    o.json_schema = object_of(written, "json_schema");
    o.json_schema_name = R"("json_schema")";
  }
  const auto stop = line.find("stop");
  if (stop != line.end() && !stop->is_null()) {
    o.stop.clear();
    if (stop->is_string()) {
      o.stop.push_back(stop->get<std::string>());
    } else {
      if (!stop->is_array()) wrong("stop", "a text or a list of texts", *stop);
      for (const nlohmann::json& text : *stop) o.stop.push_back(text_of(text, "stop"));
    }
  }
  return request;
}

}  // namespace

// Answers can be made again; any other file is not ours to replace.
static void refuse_foreign_file(const std::string& path) {
  if (is_new_or_begins_with(path, kAnswerStart)) return;
  throw ArgumentError(fmt::format(
      "{}: expected a new file or one of earlier answers, found another file; move it away, or choose another name",
      path));
}

BatchFileResult generate_file(TextGenerator& generator, const std::string& input, const std::string& output,
                              const GenerateOptions& defaults, int64_t sequences,
                              const std::function<void(size_t done, size_t total)>& on_progress) try {
  require_regular_file_name(output);
  refuse_foreign_file(output);
  JsonLines stream(input);
  // What becomes of a line: `request` is its number among those that are asked, or there is an error already.
  struct Line {
    nlohmann::ordered_json answer;
    bool known = false;
  };
  std::vector<Line> lines;
  std::vector<BatchRequest> requests;
  std::vector<size_t> line_of;
  BatchFileResult result;
  const auto fail = [&](size_t line, const std::string& reason) {
    lines[line].answer["error"] = reason;
    lines[line].known = true;
    result.failures.push_back(fmt::format("{}, line {}: {}", input, lines[line].answer["line"].get<int64_t>(), reason));
  };
  std::string_view text;
  while (stream.next(text)) {
    const int64_t number = stream.number();
    if (text.find_first_not_of(" \t") == std::string_view::npos) continue;
    if (lines.size() == kMostLines) {
      throw FormatError(
          fmt::format("{}: expected at most {} lines with prompts, found more; split the file", input, kMostLines));
    }
    Line& line = lines.emplace_back();
    line.answer["line"] = number;
    try {
      const nlohmann::json json = parse_line(text);
      if (json.is_object() && json.contains("id")) line.answer["id"] = json.at("id");
      requests.push_back(request_of(json, text, defaults));
      line_of.push_back(lines.size() - 1);
    } catch (const Error& error) {
      fail(lines.size() - 1, error.what());
    }
  }
  if (lines.empty()) throw FormatError(fmt::format("{}: expected a line with a prompt, found none", input));
  AtomicFile file(output);
  size_t written = 0;
  const auto write_known = [&] {
    for (; written < lines.size() && lines[written].known; ++written) {
      file.write(lines[written].answer.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n");
      lines[written].answer.clear();
    }
  };
  write_known();
  size_t done = 0;
  generator.batch(requests, sequences, [&](size_t index, const BatchAnswer& answer) {
    const size_t at = line_of[index];
    if (!answer.error.empty()) {
      fail(at, answer.error);
    } else {
      auto& json = lines[at].answer;
      json["text"] = answer.text;
      json.update(value_of<nlohmann::ordered_json>(static_cast<const AnswerStats&>(answer.stats)));
      lines[at].known = true;
      ++result.answered;
    }
    write_known();
    if (on_progress) on_progress(++done, requests.size());
    return true;
  });
  file.commit();
  return result;
} catch (...) {
  rethrow_as_error("generate_file");
}

}  // namespace metal_marlin

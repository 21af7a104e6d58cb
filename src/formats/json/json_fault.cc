#include "formats/json/json_fault.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "formats/foreign_file.h"
#include "formats/text.h"

namespace metal_marlin {
namespace {

// What the parser says, before it quotes the text, and what it expected then.
constexpr std::pair<std::string_view, std::string_view> kExpected[] = {
    {"missing closing quote", "'\"' at the end of a string"},
    {"control character", "no control character in a string"},
    {"forbidden character after backslash", "an escape such as \\n or \\u0041"},
    {"must be followed by 4 hex digits", "four hexadecimal digits after \\u"},
    {"must be followed by U+DC00", "the second half of a surrogate pair"},
    {"must follow U+D800", "no second half of a surrogate pair alone"},
    {"ill-formed UTF-8", "UTF-8"},
    {"invalid number", "a digit"},
    {"number overflow", "a number within the range of a double"},
    {"parsing object key", "a key in double quotes"},
    {"parsing object separator", "':' after a key"},
    {"parsing object", "',' or '}'"},
    {"parsing array", "',' or ']'"},
    {"", "a value"},
};

// Where the character or the word begins that was left unfinished before `at`.
size_t beginning(std::string_view text, size_t at) {
  for (const std::string_view word : {"true", "false", "null"}) {
    for (size_t n = std::min(word.size() - 1, at); n > 0; --n) {
      if (text.substr(at - n, n) == word.substr(0, n)) return at - n;
    }
  }
  return at;
}
size_t beginning_of_character(std::string_view text, size_t at) {
  for (size_t n = 1; n <= std::min<size_t>(at, 3); ++n) {
    const auto c = static_cast<unsigned char>(text[at - n]);
    if (c >= 0xc2) return n < (c >= 0xf0 ? 4U : c >= 0xe0 ? 3U : 2U) ? at - n : at;
    if (c < 0x80) break;
  }
  return at;
}

std::string found_at(std::string_view text, size_t at) {
  if (at >= text.size()) return "the end of the text";
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  if (byte(at) == 0) return "a zero byte";
  size_t end = at + 1;
  while (end < text.size() && end < at + 4 && byte(at) >= 0xc2 && (byte(end) & 0xc0) == 0x80) ++end;
  const std::string character = escaped(text.substr(at, end - at), 1);
  const bool plain = byte(at) >= ' ' && !character.starts_with("\\x");
  return plain ? "'" + character + "'" : fmt::format("the byte 0x{:02x}", byte(at));
}

class FaultFinder : public nlohmann::detail::json_sax_acceptor<nlohmann::json> {
 public:
  explicit FaultFinder(std::string_view text) : text_(text) {}
  bool parse_error(size_t read, const std::string& token, const nlohmann::detail::exception& reason) {
    fault = json_fault(text_, read, token, reason.what());
    return false;
  }
  std::optional<JsonFault> fault;

 private:
  std::string_view text_;
};

}  // namespace

JsonFault json_fault(std::string_view text, size_t read, const std::string& token, std::string_view reason) {
  const std::string_view said = reason.substr(0, reason.find("; last read: '"));
  const auto says = [&](std::string_view words) { return said.find(words) != std::string_view::npos; };
  std::string expected(std::find_if(std::begin(kExpected), std::end(kExpected), [&](const auto& entry) {
                         return says(entry.first);
                       })->second);
  if (says("number overflow")) return {read - token.size(), std::move(expected), "'" + escaped(token, 40) + "'"};
  // The last byte read; of a whole token that does not belong there, the first.
  size_t at = std::min(read - 1, text.size());
  if (says("unexpected string literal") || says("unexpected number literal")) at = read - token.size();
  if (says("unexpected true literal") || says("unexpected null literal")) at = read - 4;
  if (says("unexpected false literal")) at = read - 5;
  if (says("invalid literal")) at = beginning(text, at);
  if (says("ill-formed UTF-8")) at = beginning_of_character(text, at);
  if (reason.ends_with("; expected end of input")) expected = "nothing after the value";
  // What was opened just before may also be closed.
  const size_t before = at == 0 ? std::string_view::npos : text.find_last_not_of(" \t\r\n", at - 1);
  if (before != std::string_view::npos && text[before] == '{' && says("parsing object key")) expected += " or '}'";
  if (before != std::string_view::npos && text[before] == '[' && expected == "a value") expected += " or ']'";
  return {at, std::move(expected), found_at(text, at)};
}

std::optional<JsonFault> find_json_fault(std::string_view text) {
  if (text.starts_with("\xEF\xBB\xBF")) return JsonFault{0, "a value", "a byte order mark"};
  FaultFinder finder(text);
  nlohmann::json::sax_parse(text.begin(), text.end(), &finder);
  if (finder.fault) return finder.fault;
  // The parser takes a zero byte for the end of its input.
  const size_t zero = text.find('\0');
  if (zero == std::string_view::npos) return std::nullopt;
  return JsonFault{zero, "nothing after the value", found_at(text, zero)};
}

std::string json_fault_text(std::string_view text, uint64_t first_byte, const JsonFault& fault) {
  const std::string foreign = first_byte == 0 ? foreign_json_text(text) : foreign_file_text(text.substr(0, 512));
  if (!foreign.empty()) return "no valid JSON: " + foreign;
  return fmt::format("no valid JSON: expected {} at byte {}, found {}", fault.expected, first_byte + fault.offset,
                     fault.found);
}

std::string json_fault_text(std::string_view text, uint64_t first_byte) {
  return json_fault_text(text, first_byte, find_json_fault(text).value_or(JsonFault{0, "JSON", "something else"}));
}

}  // namespace metal_marlin

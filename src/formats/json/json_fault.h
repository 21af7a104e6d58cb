// Says where and why a text is invalid JSON, in words for our error messages. The parser reports it in words of its
// own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace metal_marlin {

struct JsonFault {
  uint64_t offset = 0;   // byte at which reading stopped
  std::string expected;  // "a value", "',' or '}'"
  std::string found;     // "'x'", "the end of the text"
};

// What nlohmann's parser hands to parse_error() of a json_sax: `read`, the bytes read by then, the token that it read
// last, and the text of its exception.
JsonFault json_fault(std::string_view text, size_t read, const std::string& token, std::string_view reason);

// Returns the first fault by RFC 8259 (one value, UTF-8, no byte order mark) or the first number beyond the range of a
// double; nothing for valid JSON. Nesting takes no stack, and time is linear in the text.
std::optional<JsonFault> find_json_fault(std::string_view text);

// "no valid JSON: expected ',' or '}' at byte 17, found 'x'": the words of a message about JSON that a parser refused.
// `first_byte` is where the text begins in its file. Where the text is no JSON at all but a known kind of file (a Git
// LFS pointer, an HTML page, an archive), what it is and what to do.
std::string json_fault_text(std::string_view text, uint64_t first_byte = 0);
// The same of a fault that is known.
std::string json_fault_text(std::string_view text, uint64_t first_byte, const JsonFault& fault);

}  // namespace metal_marlin

// Says where and why a text is invalid JSON, in words for our error messages. The library's parser reports it in words
// of its own.
#pragma once

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

// Returns the first fault by RFC 8259 (one value, UTF-8, no byte order mark), or nothing for valid JSON. Numbers of any
// size are valid. Nesting takes no stack, and time is linear in the text.
std::optional<JsonFault> find_json_fault(std::string_view text);

// "no valid JSON: expected ',' or '}' at byte 17, found 'x'": the words of a message about JSON that a parser refused.
// `first_byte` is where the text begins in its file. Where the text is no JSON at all but a known kind of file (a Git
// LFS pointer, an HTML page, an archive), what it is and what to do.
std::string json_fault_text(std::string_view text, uint64_t first_byte = 0);

}  // namespace metal_marlin

// Text files in UTF-8.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace metal_marlin {

// Editors put it before a text. It is no part of the text, and a tokenizer would make a token of it.
inline constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
inline std::string without_byte_order_mark(std::string text) {
  if (text.starts_with(kByteOrderMark)) text.erase(0, kByteOrderMark.size());
  return text;
}

// FormatError that names the file and the first byte where `text`, read from it at `offset`, is not UTF-8.
void expect_utf8(const std::string& path, const std::string& text, uint64_t offset = 0);

// CR LF and lone CR as LF, as every Python program reads a text.
std::string with_plain_newlines(std::string text);

// A text file without a byte order mark, with CR LF and CR as LF, as Python reads texts. FormatError for bytes that are
// not UTF-8, and for an empty file; SystemError when it cannot be read.
std::string read_utf8_text(const std::string& path);

// Whether two files hold the same bytes, wherever they lie; false where one of them is no file.
bool same_text(const std::string& a, const std::string& b);

}  // namespace metal_marlin

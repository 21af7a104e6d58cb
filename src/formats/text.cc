#include "formats/text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "formats/terminal_json.h"
#include "formats/terminal_text.h"

namespace metal_marlin {
namespace {

struct Character {
  uint32_t code = 0;
  size_t bytes = 0;  // 0: no UTF-8 begins here
};

Character character_at(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(at);
  if (first < 0x80) return {first, 1};
  const size_t bytes = first >= 0xf0 && first <= 0xf4   ? 4
                       : first >= 0xe0 && first < 0xf0  ? 3
                       : first >= 0xc2 && first <= 0xdf ? 2
                                                        : 0;
  if (bytes == 0 || at + bytes > text.size()) return {};
  uint32_t code = first & (0x7fU >> bytes);
  for (size_t i = 1; i < bytes; ++i) {
    if ((byte(at + i) & 0xc0) != 0x80) return {};
    code = code << 6 | (byte(at + i) & 0x3fU);
  }
  constexpr uint32_t kLeast[] = {0, 0, 0x80, 0x800, 0x10000};
  if (code < kLeast[bytes] || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff)) return {};
  return {code, bytes};
}

bool is_unsafe(uint32_t code) {
  return code < 0x20 || (code >= 0x7f && code <= 0x9f) || code == 0x61c || (code >= 0x200b && code <= 0x200f) ||
         (code >= 0x2028 && code <= 0x202e) || (code >= 0x2060 && code <= 0x206f) || code == 0xfeff ||
         (code >= 0xfff9 && code <= 0xfffb) || (code >= 0xe0000 && code <= 0xe007f);
}

// Of texts with lines, where joiners make letters and emoji, and marks of direction stand beside single characters.
bool is_harmful(uint32_t code) {
  return is_unsafe(code) && code != '\n' && code != '\t' && code != 0x61c && (code < 0x200b || code > 0x200f) &&
         code != 0x2060;
}

template <class Unsafe>
std::string escape(std::string_view text, size_t most, const Unsafe& unsafe) {
  std::string out;
  size_t characters = 0;
  for (size_t at = 0; at < text.size(); ++characters) {
    if (characters == most) return out + "...";
    const Character c = character_at(text, at);
    if (c.bytes == 0) {
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(text[at]));
      ++at;
      continue;
    }
    if (!unsafe(c.code)) {
      out += text.substr(at, c.bytes);
    } else if (c.code == '\n' || c.code == '\t' || c.code == '\r') {
      out += c.code == '\n' ? "\\n" : c.code == '\t' ? "\\t" : "\\r";
    } else if (c.code < 0x80) {
      out += fmt::format("\\x{:02x}", c.code);
    } else {
      out += fmt::format("\\u{:04x}", c.code);
    }
    at += c.bytes;
  }
  return out;
}

}  // namespace

std::string escaped(std::string_view text, size_t most) {
  return escape(text, most, is_unsafe);
}

std::string text_for_terminal(std::string_view text) {
  return escape(text, std::string_view::npos, is_harmful);
}

std::string shown(std::string_view text) {
  return '"' + escaped(text) + '"';
}

std::string escaped_line(std::string_view text) {
  constexpr size_t kHead = 3000;
  constexpr size_t kTail = 900;
  if (text.size() <= kHead + kTail) return escaped(text, std::string_view::npos);
  size_t end = text.size() - kTail;
  while (end < text.size() && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) ++end;
  size_t begin = kHead;
  while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xc0) == 0x80) --begin;
  return escaped(text.substr(0, begin), kHead) + " ... " + escaped(text.substr(end), kTail);
}

std::string json_for_terminal(std::string_view json) {
  std::string out;
  out.reserve(json.size());
  for (size_t at = 0; at < json.size();) {
    const Character c = character_at(json, at);
    if (c.bytes == 0 || c.code < 0x20 || !is_unsafe(c.code)) {
      out += json.substr(at, std::max<size_t>(c.bytes, 1));
    } else if (c.code < 0x10000) {
      out += fmt::format("\\u{:04x}", c.code);
    } else {
      const uint32_t rest = c.code - 0x10000;
      out += fmt::format("\\u{:04x}\\u{:04x}", 0xd800 + (rest >> 10), 0xdc00 + (rest & 0x3ff));
    }
    at += std::max<size_t>(c.bytes, 1);
  }
  return out;
}

}  // namespace metal_marlin

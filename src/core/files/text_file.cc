#include "core/files/text_file.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <filesystem>

#include "core/files/atomic_file.h"
#include "core/files/mapped_file.h"

namespace metal_marlin {
namespace {

// Byte offset of the first byte that is not part of valid UTF-8, or npos.
size_t invalid_utf8(const std::string& text) {
  const auto byte = [&](size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0u; };
  size_t i = 0;
  while (i < text.size()) {
    const unsigned c = byte(i);
    size_t more = 0;
    unsigned low = 0x80;
    unsigned high = 0xbf;
    if (c < 0x80) {
      more = 0;
    } else if (c >= 0xc2 && c <= 0xdf) {
      more = 1;
    } else if (c >= 0xe0 && c <= 0xef) {
      more = 2;
      if (c == 0xe0) low = 0xa0;
      if (c == 0xed) high = 0x9f;
    } else if (c >= 0xf0 && c <= 0xf4) {
      more = 3;
      if (c == 0xf0) low = 0x90;
      if (c == 0xf4) high = 0x8f;
    } else {
      return i;
    }
    for (size_t k = 1; k <= more; ++k) {
      const unsigned d = byte(i + k);
      if (i + k >= text.size() || d < (k == 1 ? low : 0x80u) || d > (k == 1 ? high : 0xbfu)) return i;
    }
    i += more + 1;
  }
  return std::string::npos;
}

}  // namespace

void expect_utf8(const std::string& path, const std::string& text, uint64_t offset) {
  if (const size_t at = invalid_utf8(text); at != std::string::npos) {
    throw FormatError(fmt::format("{}: expected UTF-8 text, found the byte 0x{:02x} at offset {}", path,
                                  static_cast<unsigned char>(text[at]), offset + at));
  }
}

std::string with_plain_newlines(std::string text) {
  if (text.find('\r') == std::string::npos) return text;
  size_t to = 0;
  for (size_t from = 0; from < text.size(); ++from) {
    if (text[from] == '\r' && from + 1 < text.size() && text[from + 1] == '\n') continue;
    text[to++] = text[from] == '\r' ? '\n' : text[from];
  }
  text.resize(to);
  return text;
}

std::string read_utf8_text(const std::string& path) {
  std::string text = read_text_file(path, uint64_t{4} << 30);
  expect_utf8(path, text);
  text = without_byte_order_mark(std::move(text));
  if (text.empty()) throw FormatError(fmt::format("{}: expected a text, found an empty file", path));
  return with_plain_newlines(std::move(text));
}

bool same_text(const std::string& a, const std::string& b) {
  namespace fs = std::filesystem;
  std::error_code code;
  if (!fs::is_regular_file(a, code) || !fs::is_regular_file(b, code)) return false;
  if (fs::equivalent(a, b, code)) return true;
  if (fs::file_size(a, code) != fs::file_size(b, code) || code) return false;
  const MappedFile first(a);
  const MappedFile second(b);
  const auto equal = [&] {
    constexpr size_t kPiece = size_t{4} << 20;  // so that large texts do not fill memory
    const size_t size = first.bytes().size();
    if (size != second.bytes().size()) return false;
    for (size_t at = 0; at < size; at += kPiece) {
      const auto piece = first.bytes().subspan(at, std::min(kPiece, size - at));
      const auto other = second.bytes().subspan(at, piece.size());
      if (!std::ranges::equal(piece, other)) return false;
      first.release(piece);
      second.release(other);
    }
    return true;
  };
  return first.checked([&] { return second.checked(equal); });
}

}  // namespace metal_marlin

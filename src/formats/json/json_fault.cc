#include "formats/json/json_fault.h"

#include <fmt/format.h>

#include <vector>

#include "formats/foreign_file.h"

namespace metal_marlin {
namespace {

bool is_digit(int c) {
  return c >= '0' && c <= '9';
}
bool is_hex(int c) {
  return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

// Bytes of the UTF-8 character at `at`, or 0: none that is valid.
size_t character(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) { return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U; };
  const unsigned c = byte(at);
  if (c < 0x80) return 1;
  const size_t length = c >= 0xc2 && c <= 0xdf ? 2 : c >= 0xe0 && c <= 0xef ? 3 : c >= 0xf0 && c <= 0xf4 ? 4 : 0;
  for (size_t i = 1; i < length; ++i) {
    unsigned low = 0x80;
    unsigned high = 0xbf;
    if (i == 1 && c == 0xe0) low = 0xa0;
    if (i == 1 && c == 0xed) high = 0x9f;
    if (i == 1 && c == 0xf0) low = 0x90;
    if (i == 1 && c == 0xf4) high = 0x8f;
    if (byte(at + i) < low || byte(at + i) > high) return 0;
  }
  return length;
}

class Scanner {
 public:
  explicit Scanner(std::string_view text) : text_(text) {}

  std::optional<JsonFault> run() {
    if (text_.starts_with("\xEF\xBB\xBF")) return JsonFault{0, "a value", "a byte order mark"};
    document();
    return std::move(fault_);
  }

 private:
  int peek() const { return at_ < text_.size() ? static_cast<unsigned char>(text_[at_]) : -1; }
  bool take(char c) {
    if (peek() != static_cast<unsigned char>(c)) return false;
    ++at_;
    return true;
  }
  void space() {
    while (peek() == ' ' || peek() == '\t' || peek() == '\n' || peek() == '\r') ++at_;
  }
  bool wrong(std::string expected) {
    std::string found = "the end of the text";
    if (at_ < text_.size()) {
      const auto c = static_cast<unsigned char>(text_[at_]);
      const size_t length = character(text_, at_);
      found = c == 0                              ? "a zero byte"
              : c < 32 || c == 127 || length == 0 ? fmt::format("the byte 0x{:02x}", c)
                                                  : "'" + std::string(text_.substr(at_, length)) + "'";
    }
    fault_ = JsonFault{at_, std::move(expected), std::move(found)};
    return false;
  }

  bool string() {
    ++at_;  // the quote
    while (true) {
      const int c = peek();
      if (c < 0) return wrong("'\"' at the end of a string");
      if (c == '"') {
        ++at_;
        return true;
      }
      if (c < 32) return wrong("no control character in a string");
      if (c == '\\') {
        ++at_;
        if (!escape()) return false;
        continue;
      }
      const size_t length = character(text_, at_);
      if (length == 0) return wrong("UTF-8");
      at_ += length;
    }
  }

  // Four hexadecimal digits, into `code`.
  bool hexadecimal(unsigned& code) {
    code = 0;
    for (int i = 0; i < 4; ++i) {
      const int c = peek();
      if (!is_hex(c)) return wrong("four hexadecimal digits after \\u");
      code = code * 16 + static_cast<unsigned>(is_digit(c) ? c - '0' : (c | 0x20) - 'a' + 10);
      ++at_;
    }
    return true;
  }

  bool escape() {
    const int c = peek();
    if (c < 0 || std::string_view("\"\\/bfnrtu").find(static_cast<char>(c)) == std::string_view::npos)
      return wrong("an escape such as \\n or \\u0041");
    ++at_;
    if (c != 'u') return true;
    unsigned code = 0;
    if (!hexadecimal(code)) return false;
    if (code >= 0xdc00 && code <= 0xdfff) return wrong("no second half of a surrogate pair alone");
    if (code < 0xd800 || code > 0xdbff) return true;
    const bool pair = take('\\') && take('u');
    if (!pair || !hexadecimal(code) || code < 0xdc00 || code > 0xdfff)
      return fault_ ? false : wrong("the second half of a surrogate pair");
    return true;
  }

  bool digits() {
    if (!is_digit(peek())) return wrong("a digit");
    while (is_digit(peek())) ++at_;
    return true;
  }

  bool number() {
    take('-');
    if (!take('0') && !digits()) return false;
    if (take('.') && !digits()) return false;
    if (take('e') || take('E')) {
      if (!take('+')) take('-');
      return digits();
    }
    return true;
  }

  // A value that holds no other.
  bool scalar(const char* expected) {
    const int c = peek();
    if (c == '"') return string();
    if (c == '-' || is_digit(c)) return number();
    for (const std::string_view word : {"true", "false", "null"}) {
      if (text_.substr(at_, word.size()) != word) continue;
      at_ += word.size();
      return true;
    }
    return wrong(expected);
  }

  bool key() {
    if (peek() != '"') return wrong("a key in double quotes");
    if (!string()) return false;
    space();
    return take(':') || wrong("':' after a key");
  }

  void document() {
    std::vector<char> open;  // '{' or '[' of the values around
    const char* expected = "a value";
    while (true) {
      space();
      bool done = true;  // a value ended here
      if (take('{')) {
        space();
        if (!take('}')) {
          if (peek() != '"') return void(wrong("a key in double quotes or '}'"));
          if (!key()) return;
          open.push_back('{');
          done = false;
        }
      } else if (take('[')) {
        space();
        if (!take(']')) {
          open.push_back('[');
          done = false;
          expected = "a value or ']'";
          continue;
        }
      } else if (!scalar(expected)) {
        return;
      }
      expected = "a value";
      while (done) {
        space();
        if (open.empty()) return void(peek() < 0 || wrong("nothing after the value"));
        const bool object = open.back() == '{';
        if (take(',')) {
          space();
          if (object && !key()) return;
          done = false;
        } else if (take(object ? '}' : ']')) {
          open.pop_back();
        } else {
          return void(wrong(object ? "',' or '}'" : "',' or ']'"));
        }
      }
    }
  }

  std::string_view text_;
  size_t at_ = 0;
  std::optional<JsonFault> fault_;
};

}  // namespace

std::optional<JsonFault> find_json_fault(std::string_view text) {
  return Scanner(text).run();
}

std::string json_fault_text(std::string_view text, uint64_t first_byte) {
  const std::string foreign = first_byte == 0 ? foreign_json_text(text) : foreign_file_text(text.substr(0, 512));
  if (!foreign.empty()) return "no valid JSON: " + foreign;
  const auto fault = find_json_fault(text);
  if (!fault) return "no valid JSON: expected numbers within the range of a double";
  return fmt::format("no valid JSON: expected {} at byte {}, found {}", fault->expected, first_byte + fault->offset,
                     fault->found);
}

}  // namespace metal_marlin

#include "tokenizer/token_bounds.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cstring>

#include "core/counted.h"
#include "formats/text.h"

namespace metal_marlin {
namespace {

constexpr size_t kLargestTable = size_t{16} << 20;

[[noreturn]] void too_long(const std::string& file, const std::string& key, size_t most, size_t found) {
  throw FormatError(
      fmt::format("{}: {}: expected texts of at most {}, found one of {}; get the file from the model's "
                  "publisher again",
                  file, key, counted(most, "byte"), found));
}

// Walks over the strings of a JSON text, which need not be valid, as they are written: an escape counts as its own
// length.
class Strings {
 public:
  explicit Strings(std::string_view text) : text_(text) {}

  // The next string, without its quotes; false at the end.
  bool next() {
    if (is_key) {
      if (depth == 1) top = string, below = {};
      if (depth == 2) below = string;
      last_key = string;
    }
    for (; at_ < text_.size(); ++at_) {
      const char c = text_[at_];
      if (c == '{' || c == '[') ++depth;
      if (c == '}' || c == ']') --depth;
      if (c == '"') break;
    }
    if (at_ >= text_.size()) return false;
    const size_t begin = ++at_;
    while (at_ < text_.size() && text_[at_] != '"') at_ += text_[at_] == '\\' ? 2 : 1;
    string = text_.substr(begin, std::min(at_, text_.size()) - begin);
    if (at_ < text_.size()) ++at_;
    size_t after = at_;
    while (after < text_.size() && std::strchr(" \t\r\n", text_[after]) != nullptr && text_[after] != '\0') ++after;
    is_key = after < text_.size() && text_[after] == ':';
    return true;
  }

  std::string_view string;
  bool is_key = false;
  int depth = 0;
  std::string_view top, below;  // the keys of the outermost object and of the object in it, where the string stands
  std::string_view last_key;    // a value follows its key

  std::string place() const {
    const std::string_view first = depth == 1 && is_key ? string : top;
    return below.empty() ? escaped(first) : escaped(first) + "." + escaped(below);
  }

 private:
  std::string_view text_;
  size_t at_ = 0;
};

}  // namespace

void check_token(std::string_view token, const std::string& file, std::string_view key) {
  if (token.size() > kLongestToken) too_long(file, escaped(key), kLongestToken, token.size());
}

void check_tokenizer_json(std::string_view text, const std::string& file) {
  size_t added = 0;
  size_t added_bytes = 0;
  const auto escapes = [](std::string_view key) { return key.find('\\') != std::string_view::npos; };
  Strings strings(text);
  while (strings.next()) {
    const std::string_view s = strings.string;
    // A key that is written with escapes may be any key.
    const bool in_added = strings.top == "added_tokens" || escapes(strings.top);
    if (in_added && !strings.is_key && (strings.last_key == "content" || escapes(strings.last_key))) {
      added_bytes += s.size();
      if (++added > kMostAddedTokens || added_bytes > kMostAddedBytes) {
        throw FormatError(
            fmt::format("{}: {}: expected at most {} of {} bytes together, found more; get the file from "
                        "the model's publisher again",
                        file, escaped(strings.top), counted(kMostAddedTokens, "token"), kMostAddedBytes));
      }
    }
    if (s.size() <= kLongestToken) continue;
    if (!strings.is_key && strings.last_key == "precompiled_charsmap" && !in_added) {
      if (s.size() > kLargestTable) too_long(file, strings.place(), kLargestTable, s.size());
    } else if (strings.top == "model" && strings.below == "merges" && !strings.is_key) {
      if (s.size() > 2 * kLongestToken + 1) too_long(file, strings.place(), 2 * kLongestToken + 1, s.size());
    } else {
      too_long(file, strings.place(), kLongestToken, s.size());
    }
  }
}

}  // namespace metal_marlin

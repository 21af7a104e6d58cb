// A file of JSON Lines, line by line: memory does not grow with the file.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "core/files/text_reader.h"
#include "formats/json/json_bounds.h"

namespace metal_marlin {

// Longer lines are refused, as are lines beyond these bounds, because a parsed line takes many times its size in
// memory.
inline constexpr size_t kLongestJsonLine = size_t{32} << 20;
inline constexpr JsonBounds kJsonLineBounds = {.values = uint64_t{1} << 20, .keys = kMostOrderedKeys};

class JsonLines {
 public:
  // Throws as TextReader does.
  explicit JsonLines(const std::string& path) : reader_(path) {}
  // The next line, without its end, until the next call; false at the end of the file. FormatError "FILE:LINE: ..." for
  // a line of more than kLongestJsonLine bytes, of which no more is held, and as TextReader does.
  bool next(std::string_view& line);
  // Of the line that next() gave; the first is 1.
  int64_t number() const noexcept { return number_; }

 private:
  TextReader reader_;
  std::string text_;
  size_t at_ = 0;  // of the next line
  int64_t number_ = 0;
  bool ended_ = false;
};

}  // namespace metal_marlin

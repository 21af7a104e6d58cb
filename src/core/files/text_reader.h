// A text file, part by part: memory does not grow with the file.
#pragma once

#include <cstdint>
#include <fstream>
#include <string>

namespace metal_marlin {

// A text file in parts: CR LF and CR as LF, as Python reads texts. FormatError where bytes are not UTF-8 or the file is
// empty; SystemError when it cannot be read or is no regular file.
class TextReader {
 public:
  explicit TextReader(const std::string& path);
  // Appends the next part, of 1 MiB at most; false, and nothing appended, at the end.
  bool read(std::string& text);
  const std::string& path() const noexcept { return path_; }

 private:
  std::string path_;
  std::ifstream file_;
  std::string held_;           // bytes of a character that is not whole yet
  uint64_t offset_ = 0;        // of held_ in the file
  bool after_return_ = false;  // the last byte was CR: a line feed behind it is part of the same line end
};

}  // namespace metal_marlin

// The tokens of a text file, part by part: memory does not grow with the file, and only what is needed is read.
#pragma once

#include <cstdint>
#include <fstream>
#include <string>
#include <vector>

#include "source/tokenizer.h"

namespace metal_marlin {

// A text file in parts: CR LF and CR as LF, as Python reads texts. FormatError where bytes are not UTF-8 or the file is
// empty; SystemError when it cannot be read.
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

// The ids of Tokenizer::encode over the whole file, in parts.
class TokenStream {
 public:
  TokenStream(const std::string& path, const Tokenizer& tokenizer);
  // Appends the next ids; false, and nothing appended, at the end. `wanted`: how many the caller still needs, at least
  // 1; more may come. A text that nowhere has a place where it may be cut is read whole, to 32 MiB; beyond, it is an
  // UnsupportedError. Of one whose first line is long the ids wanted are taken, as the last ones, once 64 KiB of
  // further text change none of them.
  bool next(std::vector<int32_t>& ids, int64_t wanted);

 private:
  size_t last_cut() const;
  bool from_beginning(std::vector<int32_t>& ids, int64_t wanted) const;

  TextReader reader_;
  const Tokenizer& tokenizer_;
  Tokenizer::LineCut cut_;
  std::string text_;     // read, not yet tokenized
  size_t searched_ = 0;  // of text_, without a place to cut
  bool first_ = true;    // text_ begins the file
  bool ended_ = false;   // all is read
  bool done_ = false;
};

// The first ids of a text, at most `count`.
std::vector<int32_t> first_tokens(const std::string& path, const Tokenizer& tokenizer, int64_t count);

// Of a text only the first and the last ids, and how many there are in all.
struct TextEnds {
  std::vector<int32_t> ids;  // the first ones, and behind them the last ones; all where they would overlap
  int64_t total = 0;
};
TextEnds text_ends(const std::string& path, const Tokenizer& tokenizer, int64_t first, int64_t last);

}  // namespace metal_marlin

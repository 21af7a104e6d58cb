// The tokens of a text file, part by part: memory does not grow with the file, and only what is needed is read.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "core/files/text_reader.h"
#include "tokenizer/tokenizer.h"

namespace metal_marlin {

// Bytes of text that are tokenized in one piece, which takes more than a hundred times as much memory.
inline constexpr size_t kLargestWhole = size_t{32} << 20;

// How many bytes of text to tokenize in one piece where the process may take `memory` bytes; 0: no limit. At most
// kLargestWhole.
size_t largest_whole(uint64_t memory);

// The ids of Tokenizer::encode over a whole text, in parts.
class TokenStream {
 public:
  // At most about `largest_whole` bytes are tokenized in one piece.
  TokenStream(const std::string& path, const Tokenizer& tokenizer, size_t largest_whole = kLargestWhole);
  // Of a text in memory, which must outlive the stream. `name` opens the messages.
  TokenStream(std::string_view text, std::string name, const Tokenizer& tokenizer,
              size_t largest_whole = kLargestWhole);
  // Appends the next ids; false, and nothing appended, at the end. `wanted`: how many the caller still needs, at least
  // 1; more may come. A text that nowhere has a place where it may be cut is read whole, to the largest size that is
  // tokenized in one piece; beyond, it is an UnsupportedError. Of one whose first line is long the ids wanted are
  // taken, as the last ones, once 64 KiB of further text change none of them.
  bool next(std::vector<int32_t>& ids, int64_t wanted);
  // The same, without the error.
  enum class Step : uint8_t { kMore, kEnd, kStuck };
  Step advance(std::vector<int32_t>& ids, int64_t wanted);
  [[noreturn]] void refuse() const;  // what next() throws where it is stuck

 private:
  size_t last_cut() const;
  bool from_beginning(std::vector<int32_t>& ids, int64_t wanted) const;

  std::string name_;
  std::function<bool(std::string&)> read_;  // as TextReader::read
  const Tokenizer& tokenizer_;
  Tokenizer::LineCut cut_;
  size_t largest_whole_;
  std::string text_;     // read, not yet tokenized
  size_t searched_ = 0;  // of text_, without a place to cut
  bool first_ = true;    // text_ begins the file
  bool ended_ = false;   // all is read
  bool done_ = false;
};

// The first ids of a text, at most `count`.
std::vector<int32_t> first_tokens(const std::string& path, const Tokenizer& tokenizer, int64_t count);

// Of a text only the first and the last ids.
struct TextEnds {
  std::vector<int32_t> ids;  // the first ones, and behind them the last ones; all where they would overlap
  int64_t total = 0;         // how many there are in all; where they were not counted, how many stand in `ids`
  bool counted = true;
};
// Of a text of more than 64 MiB only both ends are read, and so of one with a part too long for `memory` (bytes; 0: no
// bound) to tokenize in one piece. Where such a line has no place to be cut, those ids are taken that 64 KiB of further
// text on the other side do not change. UnsupportedError where these are too few.
TextEnds text_ends(const std::string& path, const Tokenizer& tokenizer, int64_t first, int64_t last,
                   uint64_t memory = 0);

}  // namespace metal_marlin

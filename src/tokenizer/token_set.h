// Token sequences of equal length: for calibration, and for evaluation by chunks.
#pragma once

#include <metal_marlin/options.h>

#include <cstdint>
#include <string>
#include <vector>

namespace metal_marlin {

class Tokenizer;

struct TokenSet {
  std::vector<std::vector<int32_t>> sequences;
  int64_t tokens() const noexcept;
  int64_t longest() const noexcept;
  std::vector<int64_t> lengths() const;
  std::vector<int32_t> flat() const;
};

// The tokens of a text file (read_utf8_text) without special tokens.
std::vector<int32_t> tokenize_file(const std::string& path, const Tokenizer& tokenizer);

// The BOS token to begin sequences with, or -1. kAlways without a BOS token in the tokenizer: ArgumentError.
int32_t bos_to_add(Bos bos, const Tokenizer& tokenizer);

// The first `count` chunks of `length` tokens (BOS included, which is not added where the text has it there), cut from
// ids[begin, end) one after another. A rest shorter than `length` is dropped. Fewer chunks than asked for are returned
// when the text is too short.
TokenSet cut_chunks(const std::vector<int32_t>& ids, size_t begin, size_t end, int64_t length, int64_t count,
                    int32_t bos);

// How many tokens to hold back beside `used` ones: a tenth, at least 4,096.
constexpr int64_t held_back_beside(int64_t used) noexcept {
  return used / 10 > 4096 ? used / 10 : 4096;
}

// Calibration sequences and held-back ones from one text. Held back: at least `held_back` tokens (0: none) from the end
// of the text, in chunks of `context`; never part of a calibration sequence. FormatError when the text is too short for
// one calibration sequence beside it.
struct CalibrationSplit {
  TokenSet calibration;
  TokenSet held_back;
};
CalibrationSplit split_tokens(const std::vector<int32_t>& ids, int64_t samples, int64_t sequence_length,
                              int64_t context, int32_t bos, int64_t held_back, const std::string& what);

}  // namespace metal_marlin

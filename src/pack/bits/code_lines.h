// Codes from the words of a layout to lines, the order in which products with codes read them: straight from the stored
// words, each of which is read once. A line has 16 outputs and 8 input channels (codes of at most 4 bits, each in half
// a byte) or 4 channels (8 bits). Code of output o and channel k of the line:
//
//   4 bits: byte 4 o + k % 4, in its low half for k < 4, else in its high one
//   8 bits: byte 4 o + k
//
// Along in (native, GPTQ) a line of 4 bits is 16 words side by side, each with its nibbles in the order 0 4 1 5 2 6 3
// 7; one of 8 bits is 16 words as they are.
#pragma once

#include <cstddef>
#include <cstdint>

namespace metal_marlin {

struct LineRange {
  int64_t first_output = 0;  // of 16 outputs each, side by side; the last may have less
  int64_t outputs = 0;
  int64_t first_line = 0;
  int64_t lines = 0;
};

enum class WordOrder : uint8_t { kAlongIn, kAwqGemm, kMarlin };

// The words of one weight. They must outlive this.
class CodeLines {
 public:
  // `words` as words_along_in.h, awq_gemm.h or marlin.h says, all of them; bits: one that
  // takes_width() along in, else 4.
  CodeLines(WordOrder order, const std::byte* words, int64_t out_features, int64_t in_features, int bits) noexcept
      : order_(order), words_(words), out_features_(out_features), in_features_(in_features), bits_(bits) {}

  // Whether there are lines of codes of this width.
  static constexpr bool takes_width(int bits) noexcept { return bits == 3 || bits == 4 || bits == 8; }
  // Whether read() takes these outputs: Marlin has them in blocks of 64, AWQ in words of 8.
  bool takes(int64_t first_output, int64_t outputs) const noexcept;
  // Writes line first_line + l of the outputs first_output + 16 t .. to the 64 bytes at to + t * ld + 64 l. Outputs and
  // channels that the weight lacks are zeros. Of Marlin first_line and lines are even.
  void read(const LineRange& range, uint8_t* to, int64_t ld) const noexcept;

 private:
  WordOrder order_;
  const std::byte* words_;
  int64_t out_features_;
  int64_t in_features_;
  int bits_;
};

}  // namespace metal_marlin

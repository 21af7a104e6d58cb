// Lines of codes out of the words of each layout, against the codes that were packed.
#include "pack/bits/code_lines.h"

#include "pack/awq_gemm.h"
#include "pack/golden.h"
#include "pack/gptq.h"
#include "pack/marlin.h"
#include "pack/native.h"

namespace metal_marlin {
namespace {

using Layout = WordOrder;

// The header's formula: the code of output o and channel k of a line; 0 where the weight ends.
int code_of(const uint8_t* line, int64_t o, int64_t k, int bits) {
  if (bits == 8) return line[4 * o + k];
  const int byte = line[4 * o + k % 4];
  return k < 4 ? byte & 15 : byte >> 4;
}

void expect_lines(const CodeLines& lines, const QuantizedTensor& t, const LineRange& range) {
  SCOPED_TRACE(testing::Message() << t.bits << " bits, outputs " << range.first_output << " + " << range.outputs
                                  << ", lines " << range.first_line << " + " << range.lines);
  ASSERT_TRUE(lines.takes(range.first_output, range.outputs));
  const int64_t tiles = (range.outputs + 15) / 16;
  const int64_t of_line = t.bits == 8 ? 4 : 8;
  const int64_t ld = 64 * range.lines + 64;  // what lies between stays as it is
  std::vector<uint8_t> out(static_cast<size_t>(tiles * ld), 0xa5);
  lines.read(range, out.data(), ld);
  for (int64_t tile = 0; tile < tiles; ++tile) {
    const uint8_t* at = out.data() + tile * ld;
    for (int64_t line = 0; line < range.lines; ++line) {
      for (int64_t o = 0; o < 16; ++o) {
        for (int64_t k = 0; k < of_line; ++k) {
          const int64_t n = 16 * tile + o;
          const int64_t channel = (range.first_line + line) * of_line + k;
          const bool inside = n < range.outputs && channel < t.in_features;
          const auto code = static_cast<size_t>((range.first_output + n) * t.in_features + channel);
          ASSERT_EQ(code_of(at + 64 * line, o, k, t.bits), inside ? t.codes[code] : 0)
              << "output " << n << ", channel " << channel;
        }
      }
    }
    for (int64_t i = 64 * range.lines; i < ld; ++i) ASSERT_EQ(at[i], 0xa5) << "beyond the lines";
  }
}

TEST(CodeLines, WordsAlongIn) {
  for (const int bits : {3, 4, 8}) {
    const QuantizedTensor t = test::random_tensor(150, 288, 32, false, 1, bits);
    const PackedTensor packed = pack_native(t, "p");
    const CodeLines lines(Layout::kAlongIn, packed.find("weight")->bytes.data(), 150, 288, bits);
    const int64_t all = bits == 8 ? 72 : 36;
    for (const LineRange& range :
         {LineRange{0, 150, 0, all}, LineRange{0, 16, 5, 1}, LineRange{7, 40, 3, 9}, LineRange{149, 1, all - 2, 2}})
      expect_lines(lines, t, range);
    EXPECT_FALSE(lines.takes(149, 2));
    EXPECT_FALSE(lines.takes(-1, 2));
    EXPECT_FALSE(lines.takes(0, 0));
  }
}

TEST(CodeLines, AwqGemm) {
  for (const int64_t in : {256, 20}) {  // the last line may be short
    const QuantizedTensor t = test::random_tensor(200, in, in / 2, false, 2);
    const PackedTensor packed = pack_awq_gemm(t, "p");
    const CodeLines lines(Layout::kAwqGemm, packed.find("qweight")->bytes.data(), 200, in, 4);
    const int64_t all = (in + 7) / 8;
    for (const LineRange& range : {LineRange{0, 200, 0, all}, LineRange{8, 104, 1, all - 1}, LineRange{192, 8, 0, all},
                                   LineRange{16, 24, 0, 1}, LineRange{32, 48, 0, all}})
      expect_lines(lines, t, range);
    EXPECT_FALSE(lines.takes(4, 16));
    EXPECT_FALSE(lines.takes(0, 20));
  }
}

TEST(CodeLines, Marlin) {
  const QuantizedTensor t = test::random_tensor(512, 256, 128, true, 3);
  const PackedTensor packed = pack_marlin(t, "p");
  const CodeLines lines(Layout::kMarlin, packed.find("B")->bytes.data(), 512, 256, 4);
  for (const LineRange& range : {LineRange{0, 512, 0, 32}, LineRange{64, 128, 2, 6}, LineRange{448, 64, 30, 2}})
    expect_lines(lines, t, range);
  EXPECT_FALSE(lines.takes(32, 64));
  EXPECT_FALSE(lines.takes(0, 32));
}

}  // namespace
}  // namespace metal_marlin

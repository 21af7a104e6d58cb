#include "pack/bits/code_lines.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "pack/bits/lanes.h"
#include "pack/bits/nibbles.h"

namespace metal_marlin {
namespace {

constexpr int64_t kOutputs = 16;
constexpr int64_t kLine = 64;       // bytes
constexpr int64_t kAwqWord = 8;     // outputs of a word
constexpr int64_t kMarlinOut = 64;  // outputs of 128 words of a row of B

// Line of 16 words, or of fewer and zeros.
template <class F>
void put_line(const std::byte* words, int64_t outputs, const F& line_of, uint8_t* to) noexcept {
  if (outputs >= kOutputs) {
    for (int64_t i = 0; i < kLine; i += 16) store(to + i, line_of(load<Words4>(words + i), i));
    return;
  }
  std::array<uint32_t, kOutputs> some{};
  std::memcpy(some.data(), words, 4 * static_cast<size_t>(outputs));
  for (int64_t i = 0; i < kLine; i += 16)
    store(to + i, 4 * outputs > i ? line_of(load<Words4>(some.data() + i / 4), i) : Words4{});
}

// Nibbles 0 1 2 3 4 5 6 7 of each word in the order 0 4 1 5 2 6 3 7: the middle bytes change places, then the middle
// nibbles of each half.
Words4 four_bits(Words4 x) noexcept {
  const Words4 bytes = (x ^ x >> 8) & 0x0000ff00u;
  x ^= bytes ^ bytes << 8;
  const Words4 nibbles = (x ^ x >> 4) & 0x00f000f0u;
  return x ^ nibbles ^ nibbles << 4;
}

// Codes of 3 bits, code i at bit 3 i.
Words4 three_bits(Words4 x) noexcept {
  const Words4 low = (x & 0x7u) | (x & 0x38u) << 5 | (x & 0x1c0u) << 10 | (x & 0xe00u) << 15;
  const Words4 high = (x & 0x7000u) >> 8 | (x & 0x38000u) >> 3 | (x & 0x1c0000u) << 2 | (x & 0xe00000u) << 7;
  return low | high;
}

template <class F>
void put_lines(const std::byte* words, const LineRange& range, int64_t line, const F& line_of, uint8_t* to,
               int64_t ld) noexcept {
  to += kLine * (line - range.first_line);
  for (int64_t o = 0; o < range.outputs; o += kOutputs, to += ld, words += 4 * kOutputs)
    put_line(words, range.outputs - o, line_of, to);
}

void read_along_in(const std::byte* words, int64_t out_features, int bits, const LineRange& range, uint8_t* to,
                   int64_t ld) noexcept {
  const int64_t row_bytes = 4 * out_features;
  words += 4 * range.first_output;
  for (int64_t line = range.first_line; line < range.first_line + range.lines; ++line) {
    if (bits == 4) {
      put_lines(words + line * row_bytes, range, line, [](Words4 x, int64_t) { return four_bits(x); }, to, ld);
    } else if (bits == 8) {
      put_lines(words + line * row_bytes, range, line, [](Words4 x, int64_t) { return x; }, to, ld);
    } else {  // four lines are three rows of words: a line begins at bit 24 (line % 4) of them
      const int64_t row = line / 4 * 3 + line % 4 * 24 / 32;
      const auto shift = static_cast<uint32_t>(line % 4 * 24 % 32);
      const std::byte* at = words + row * row_bytes;
      if (shift <= 8) {
        put_lines(at, range, line, [=](Words4 x, int64_t) { return three_bits(x >> shift); }, to, ld);
        continue;
      }
      for (int64_t o = 0; o < range.outputs; o += kOutputs) {
        std::array<uint32_t, kOutputs> next{};
        const auto count = static_cast<size_t>(std::min(kOutputs, range.outputs - o));
        std::memcpy(next.data(), at + row_bytes + 4 * o, 4 * count);
        const auto line_of = [&](Words4 x, int64_t i) {
          return three_bits(x >> shift | load<Words4>(next.data() + i / 4) << (32 - shift));
        };
        put_line(at + 4 * o, range.outputs - o, line_of, to + o / kOutputs * ld + kLine * (line - range.first_line));
      }
    }
  }
}

// Eight channels of four words, 32 outputs: two lines. The nibbles of a word stand for the outputs 0 2 4 6 1 3 5 7.
std::array<Words4, 8> awq_lines(const std::array<Bytes16, 8>& x) noexcept {
  std::array<Bytes16, 4> low;   // byte j of a word: channels k and k + 4 of output 0 4 1 5 of it
  std::array<Bytes16, 4> high;  // of output 2 6 3 7
  for (size_t k = 0; k < 4; ++k) {
    low[k] = (x[k] & 15) | x[k + 4] << 4;
    high[k] = x[k] >> 4 | (x[k + 4] & 0xf0);
  }
  const auto halves_low = [](Bytes16 a, Bytes16 b) {
    const auto p = reinterpret_cast<Halves8>(a);
    const auto q = reinterpret_cast<Halves8>(b);
    return reinterpret_cast<Words4>(__builtin_shufflevector(p, q, 0, 8, 1, 9, 2, 10, 3, 11));
  };
  const auto halves_high = [](Bytes16 a, Bytes16 b) {
    const auto p = reinterpret_cast<Halves8>(a);
    const auto q = reinterpret_cast<Halves8>(b);
    return reinterpret_cast<Words4>(__builtin_shufflevector(p, q, 4, 12, 5, 13, 6, 14, 7, 15));
  };
  // Word c of four: a 32-bit word for each of its outputs, with the four bytes of a line.
  const auto words_of = [&](const std::array<Bytes16, 4>& rows) {
    const Bytes16 ab = interleave_low(rows[0], rows[1]);
    const Bytes16 cd = interleave_low(rows[2], rows[3]);
    const Bytes16 ab_high = interleave_high(rows[0], rows[1]);
    const Bytes16 cd_high = interleave_high(rows[2], rows[3]);
    return std::array<Words4, 4>{halves_low(ab, cd), halves_high(ab, cd), halves_low(ab_high, cd_high),
                                 halves_high(ab_high, cd_high)};
  };
  const auto a = words_of(low);   // outputs 0 4 1 5
  const auto b = words_of(high);  // outputs 2 6 3 7
  std::array<Words4, 8> out;
  for (size_t c = 0; c < 4; ++c) {
    out[2 * c] = __builtin_shufflevector(a[c], b[c], 0, 2, 4, 6);
    out[2 * c + 1] = __builtin_shufflevector(a[c], b[c], 1, 3, 5, 7);
  }
  return out;
}

void read_awq(const std::byte* words, int64_t out_features, int64_t in_features, const LineRange& range, uint8_t* to,
              int64_t ld) noexcept {
  constexpr int64_t kWords = 4;  // at once
  const int64_t row_bytes = 4 * (out_features / kAwqWord);
  const int64_t all = range.outputs / kAwqWord;
  words += 4 * (range.first_output / kAwqWord);
  for (int64_t line = range.first_line; line < range.first_line + range.lines; ++line) {
    const int64_t channels = std::clamp<int64_t>(in_features - 8 * line, 0, 8);
    const std::byte* rows = words + 8 * line * row_bytes;
    uint8_t* lines = to + kLine * (line - range.first_line);
    for (int64_t word = 0; word < all; word += kWords, lines += 2 * ld) {
      const int64_t count = std::min(kWords, all - word);
      std::array<Bytes16, 8> x{};
      for (size_t k = 0; k < static_cast<size_t>(channels); ++k) {
        const std::byte* from = rows + static_cast<int64_t>(k) * row_bytes + 4 * word;
        if (count == kWords) {
          x[k] = load<Bytes16>(from);
        } else {
          std::memcpy(&x[k], from, 4 * static_cast<size_t>(count));
        }
      }
      const auto out = awq_lines(x);
      std::memcpy(lines, out.data(), kLine);
      if (count > kWords / 2) std::memcpy(lines + ld, out.data() + 4, kLine);
    }
  }
}

// marlin.cc has the order of the words: after the transposition word vector j has, of row b of the 16-column block j
// in its even bytes and of row b + 8 in its odd ones, channels c and c + 8 of 16 in the halves of byte c.
void read_marlin(const std::byte* words, int64_t out_features, const LineRange& range, uint8_t* to,
                 int64_t ld) noexcept {
  for (int64_t line = range.first_line; line < range.first_line + range.lines; line += 2) {
    const std::byte* row = words + 4 * (line / 2 * 2 * out_features + 2 * range.first_output);
    uint8_t* lines = to + kLine * (line - range.first_line);
    for (int64_t o = 0; o < range.outputs; o += kMarlinOut, row += 8 * kMarlinOut, lines += 4 * ld) {
      for (int64_t b = 0; b < 8; ++b) {
        auto x = load<std::array<Words4, 4>>(row + 64 * b);
        transpose(x[0], x[1], x[2], x[3]);
        for (size_t j = 0; j < 4; ++j) {
          const auto bytes = reinterpret_cast<Bytes16>(x[j]);
          const Bytes16 first = low_halves(bytes, bytes);    // c = 0 .. 3 of both rows
          const Bytes16 second = high_halves(bytes, bytes);  // c = 4 .. 7
          const Bytes16 lower = (first & 15) | second << 4;
          const Bytes16 upper = first >> 4 | (second & 0xf0);
          const auto even = reinterpret_cast<Words4>(even_bytes(lower, upper));
          const auto odd =
              reinterpret_cast<Words4>(even_bytes(reinterpret_cast<Bytes16>(reinterpret_cast<Halves8>(lower) >> 8),
                                                  reinterpret_cast<Bytes16>(reinterpret_cast<Halves8>(upper) >> 8)));
          uint8_t* tile = lines + static_cast<int64_t>(j) * ld;
          store(tile + 4 * b, even[0]);
          store(tile + 4 * (b + 8), odd[0]);
          store(tile + kLine + 4 * b, even[2]);
          store(tile + kLine + 4 * (b + 8), odd[2]);
        }
      }
    }
  }
}

}  // namespace

bool CodeLines::takes(int64_t first_output, int64_t outputs) const noexcept {
  if (first_output < 0 || outputs <= 0 || first_output > out_features_ - outputs) return false;
  switch (order_) {
    case WordOrder::kAwqGemm:
      return first_output % kAwqWord == 0 && outputs % kAwqWord == 0;
    case WordOrder::kMarlin:
      return first_output % kMarlinOut == 0 && outputs % kMarlinOut == 0;
    case WordOrder::kAlongIn:
      break;
  }
  return true;
}

void CodeLines::read(const LineRange& range, uint8_t* to, int64_t ld) const noexcept {
  switch (order_) {
    case WordOrder::kAwqGemm:
      return read_awq(words_, out_features_, in_features_, range, to, ld);
    case WordOrder::kMarlin:
      return read_marlin(words_, out_features_, range, to, ld);
    case WordOrder::kAlongIn:
      return read_along_in(words_, out_features_, bits_, range, to, ld);
  }
}

}  // namespace metal_marlin

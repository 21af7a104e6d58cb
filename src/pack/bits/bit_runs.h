// Codes of any width as a little-endian stream of bits in 32-bit words. A run is the least number of codes that fills
// whole words: 8 codes in 1 word at 4 bits, 4 in 1 at 8 bits, 32 in 3 at 3 bits.
//
//   code i of a run fills the bits i * bits .. i * bits + bits - 1 of its words, word 0 first, bit 0 the lowest
//
//   3 bits:  word 0                      word 1                        word 2
//            c0 c1 .. c9 c10(lower 2)    c10(upper 1) c11 .. c20       c21(upper 2) c22 .. c31
//                                        c21(lower 1)
#pragma once

#include <cstdint>
#include <numeric>

namespace metal_marlin {

constexpr int64_t run_codes(int bits) noexcept {
  return 32 / std::gcd(32, bits);
}
constexpr int64_t run_words(int bits) noexcept {
  return bits / std::gcd(32, bits);
}
inline constexpr int64_t kMostRunWords = 8;  // of up to 8 bits

// run_codes(bits) codes below 2^bits -> run_words(bits) words.
inline void pack_run(const uint8_t* codes, int bits, uint32_t* words) noexcept {
  uint64_t stream = 0;
  int filled = 0;
  for (int64_t i = 0; i < run_codes(bits); ++i) {
    stream |= static_cast<uint64_t>(codes[i]) << filled;
    filled += bits;
    if (filled < 32) continue;
    *words++ = static_cast<uint32_t>(stream);
    stream >>= 32;
    filled -= 32;
  }
}

inline void unpack_run(const uint32_t* words, int bits, uint8_t* codes) noexcept {
  const auto top = (uint64_t{1} << bits) - 1;
  uint64_t stream = 0;
  int filled = 0;
  for (int64_t i = 0; i < run_codes(bits); ++i) {
    if (filled < bits) {
      stream |= static_cast<uint64_t>(*words++) << filled;
      filled += 32;
    }
    codes[i] = static_cast<uint8_t>(stream & top);
    stream >>= bits;
    filled -= bits;
  }
}

}  // namespace metal_marlin

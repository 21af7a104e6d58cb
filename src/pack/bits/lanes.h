// Operations on sixteen bytes at once, in the compiler's vector types. Every 128-bit instruction set has them.
#pragma once

#include <array>
#include <cstdint>

namespace metal_marlin {

using Bytes16 = uint8_t __attribute__((vector_size(16)));
using Halves8 = uint16_t __attribute__((vector_size(16)));
using Words4 = uint32_t __attribute__((vector_size(16)));
using Bytes64 = std::array<Bytes16, 4>;

inline Bytes16 interleave_low(Bytes16 a, Bytes16 b) noexcept {
  return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
inline Bytes16 interleave_high(Bytes16 a, Bytes16 b) noexcept {
  return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}
inline Bytes16 even_bytes(Bytes16 a, Bytes16 b) noexcept {
  return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
}
inline Bytes16 low_halves(Bytes16 a, Bytes16 b) noexcept {
  return __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23);
}
inline Bytes16 high_halves(Bytes16 a, Bytes16 b) noexcept {
  return __builtin_shufflevector(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31);
}

// The perfect shuffle of 64 bytes: it puts byte i of the second half next to byte i of the first. That rotates the six
// bits of a byte's index left by one.
inline Bytes64 shuffle(const Bytes64& x) noexcept {
  return {interleave_low(x[0], x[2]), interleave_high(x[0], x[2]), interleave_low(x[1], x[3]),
          interleave_high(x[1], x[3])};
}

// Word j of vector i becomes word i of vector j.
inline void transpose(Words4& a, Words4& b, Words4& c, Words4& d) noexcept {
  const Words4 ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5);
  const Words4 ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const Words4 cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5);
  const Words4 cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  a = __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5);
  b = __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7);
  c = __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5);
  d = __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7);
}

// Whether some byte that was or-ed into `seen` exceeds 15.
inline bool above_15(Bytes16 seen) noexcept {
  uint8_t all = 0;
  for (size_t i = 0; i < sizeof seen; ++i) all |= seen[i];
  return all > 15;
}

}  // namespace metal_marlin

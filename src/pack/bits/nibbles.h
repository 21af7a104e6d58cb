// Eight 4-bit codes as eight bytes and as one 32-bit word, and the loads and stores that the layouts need.
#pragma once

#include <cstdint>
#include <cstring>

namespace metal_marlin {

inline constexpr uint64_t kHighNibbles = 0xf0f0f0f0f0f0f0f0u;

// Byte i of `codes` (each below 16) becomes nibble i.
inline uint32_t bytes_to_nibbles(uint64_t codes) noexcept {
  codes = (codes | codes >> 4) & 0x00ff00ff00ff00ffu;
  codes = (codes | codes >> 8) & 0x0000ffff0000ffffu;
  return static_cast<uint32_t>(codes | codes >> 16);
}

// Nibble i becomes byte i.
inline uint64_t nibbles_to_bytes(uint32_t word) noexcept {
  uint64_t codes = word;
  codes = (codes | codes << 16) & 0x0000ffff0000ffffu;
  codes = (codes | codes << 8) & 0x00ff00ff00ff00ffu;
  return (codes | codes << 4) & 0x0f0f0f0f0f0f0f0fu;
}

template <typename T>
T load(const void* p) noexcept {
  T v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

template <typename T>
void store(void* p, T v) noexcept {
  std::memcpy(p, &v, sizeof v);
}

}  // namespace metal_marlin

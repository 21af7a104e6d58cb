// Arithmetic on sizes that come from files: nothing wraps, nothing allocates before it is bounded.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <span>

namespace metal_marlin {

inline std::optional<uint64_t> checked_mul(uint64_t a, uint64_t b) noexcept {
  uint64_t r = 0;
  if (__builtin_mul_overflow(a, b, &r)) return std::nullopt;
  return r;
}

inline std::optional<uint64_t> checked_add(uint64_t a, uint64_t b) noexcept {
  uint64_t r = 0;
  if (__builtin_add_overflow(a, b, &r)) return std::nullopt;
  return r;
}

// Product of the dimensions times `element`; nothing when a dimension is negative or the product exceeds int64.
inline std::optional<uint64_t> checked_bytes(std::span<const int64_t> shape, uint64_t element) noexcept {
  uint64_t r = element;
  for (const int64_t d : shape) {
    if (d < 0) return std::nullopt;
    const auto next = checked_mul(r, static_cast<uint64_t>(d));
    if (!next || *next > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return std::nullopt;
    r = *next;
  }
  return r;
}

}  // namespace metal_marlin

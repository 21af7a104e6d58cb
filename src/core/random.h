// A counter-based random number generator: the value depends on (seed, stream, counter) alone, never on who asks first.
#pragma once

#include <cmath>
#include <cstdint>

namespace metal_marlin {

class Random {
 public:
  explicit Random(uint64_t seed, uint64_t stream = 0) noexcept : key_(mix(seed + 0x9e3779b97f4a7c15u * (stream + 1))) {}

  uint64_t next() noexcept { return mix(key_ + 0x9e3779b97f4a7c15u * ++counter_); }
  // Uniform in [0, 1), 53 bits.
  double uniform() noexcept { return static_cast<double>(next() >> 11) * 0x1p-53; }
  // Uniform in 0..n-1, n >= 1 (bias below 2^-32 for n < 2^32).
  uint64_t below(uint64_t n) noexcept { return static_cast<uint64_t>(uniform() * static_cast<double>(n)); }
  // Standard normal (Box-Muller, one of the pair).
  double normal() noexcept {
    const double u = 1.0 - uniform();
    return std::sqrt(-2.0 * std::log(u)) * std::cos(6.283185307179586 * uniform());
  }

 private:
  // The finalizer of SplitMix64 (Steele, Lea, Flood 2014).
  static uint64_t mix(uint64_t z) noexcept {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  uint64_t key_;
  uint64_t counter_ = 0;
};

}  // namespace metal_marlin

// What the machine is and what the process has used of it (platform/machine.h), and a digest.
#pragma once

#include <cstdint>

#include "platform/machine.h"

namespace metal_marlin {

// FNV-1a, 64 bit, continued from `state`: for digests of configurations and files (not a cryptographic hash).
uint64_t fnv1a(const void* data, uint64_t size, uint64_t state = 0xcbf29ce484222325u) noexcept;

// A budget for the process. No program keeps within less; such a number was meant in megabytes or gigabytes.
inline constexpr uint64_t kLeastMemoryBudget = 1'000'000;

// ArgumentError where `bytes`, the option memory_bytes, is neither 0 nor at least kLeastMemoryBudget.
void check_memory_budget(uint64_t bytes);

}  // namespace metal_marlin

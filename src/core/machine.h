// What the machine is and what the process has used of it (platform/machine.h).
#pragma once

#include <cstdint>

#include "platform/machine.h"

namespace metal_marlin {

// A budget for the process. No program keeps within less; such a number was meant in megabytes or gigabytes.
inline constexpr uint64_t kLeastMemoryBudget = 1'000'000;

// ArgumentError where `bytes`, the option memory_bytes, is neither 0 nor at least kLeastMemoryBudget.
void check_memory_budget(uint64_t bytes);

}  // namespace metal_marlin

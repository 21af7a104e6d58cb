// What the machine is and what the process has used of it (platform/machine.h), and a digest.
#pragma once

#include <cstdint>

#include "platform/machine.h"

namespace metal_marlin {

// FNV-1a, 64 bit, continued from `state`: for digests of configurations and files (not a cryptographic hash).
uint64_t fnv1a(const void* data, uint64_t size, uint64_t state = 0xcbf29ce484222325u) noexcept;

}  // namespace metal_marlin

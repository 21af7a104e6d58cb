#include "core/machine.h"

#include <metal_marlin/version.h>
#include <version_text.h>

namespace metal_marlin {

const char* version() noexcept {
  return METAL_MARLIN_VERSION;
}

uint64_t fnv1a(const void* data, uint64_t size, uint64_t state) noexcept {
  const auto* bytes = static_cast<const unsigned char*>(data);
  for (uint64_t i = 0; i < size; ++i) state = (state ^ bytes[i]) * 0x100000001b3u;
  return state;
}

}  // namespace metal_marlin

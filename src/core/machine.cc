#include "core/machine.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>
#include <metal_marlin/version.h>
#include <version_text.h>

namespace metal_marlin {

const char* version() noexcept {
  return METAL_MARLIN_VERSION;
}

void check_memory_budget(uint64_t bytes) {
  if (bytes == 0 || bytes >= kLeastMemoryBudget) return;
  const char* unit = bytes <= 64 ? "GB" : "MB";
  const uint64_t factor = bytes <= 64 ? 1'000'000'000 : 1'000'000;
  throw ArgumentError(
      "memory",
      fmt::format("--memory: expected 0 or at least {} bytes (1 MB), found {}; did you mean {} {}, which is {} bytes?",
                  kLeastMemoryBudget, bytes, bytes, unit, bytes * factor));
}

}  // namespace metal_marlin

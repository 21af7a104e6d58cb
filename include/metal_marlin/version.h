#pragma once

#include <metal_marlin/export.h>

namespace metal_marlin {

// "major.minor.patch" of the library.
METAL_MARLIN_API const char* version() noexcept;

}  // namespace metal_marlin

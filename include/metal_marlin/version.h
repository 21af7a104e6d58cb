#pragma once

namespace metal_marlin {

// "major.minor.patch" of the library.
const char* version() noexcept;

}  // namespace metal_marlin

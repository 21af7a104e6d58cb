// What reader and writer of a safetensors header share.
#pragma once

#include <cstdint>
#include <string_view>

namespace metal_marlin {

inline constexpr uint64_t kSafetensorsHeaderLimit = uint64_t{32} << 20;  // the reference allows 100 MB
inline constexpr std::string_view kMetadataKey = "__metadata__";

}  // namespace metal_marlin

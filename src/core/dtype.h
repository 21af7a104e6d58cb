// Element types of stored tensors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace metal_marlin {

enum class DType : uint8_t {
  kBool,
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kU64,
  kI64,
  kF8E4M3,
  kF8E5M2,
  kF16,
  kBF16,
  kF32,
  kF64
};

// Bytes of one element.
size_t dtype_size(DType dtype) noexcept;
// safetensors spelling: "F32", "BF16", "U32", ...
std::string_view dtype_name(DType dtype) noexcept;
// Inverse of dtype_name; nothing for an unknown name.
std::optional<DType> dtype_from_name(std::string_view name) noexcept;
inline bool is_float(DType dtype) noexcept {
  return dtype >= DType::kF8E4M3;
}

}  // namespace metal_marlin

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

// The element types of ggml. The numbers are those of a GGUF file. Types that are used only while computing (Q8_1,
// Q8_K) are left out.
enum class GgmlType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ2_K = 10,
  kQ3_K = 11,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kIQ2_XXS = 16,
  kIQ2_XS = 17,
  kIQ3_XXS = 18,
  kIQ1_S = 19,
  kIQ4_NL = 20,
  kIQ3_S = 21,
  kIQ2_S = 22,
  kIQ4_XS = 23,
  kI8 = 24,
  kI16 = 25,
  kI32 = 26,
  kI64 = 27,
  kF64 = 28,
  kIQ1_M = 29,
  kBF16 = 30,
  kTQ1_0 = 34,
  kTQ2_0 = 35,
  kMXFP4 = 39,
};

}  // namespace metal_marlin

// Arrays that pass into and out of the library: a strided view of memory that the caller keeps, and an array that owns
// its memory.
#pragma once

#include <metal_marlin/export.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace metal_marlin {

enum class ElementType : uint8_t { kBool, kI8, kU32, kF16, kBF16, kF32, kF64 };

METAL_MARLIN_API size_t element_size(ElementType type) noexcept;  // bytes
METAL_MARLIN_API const char* element_name(
    ElementType type) noexcept;  // as numpy: "bool", "int8", "uint32", "float16", "bfloat16", ...
METAL_MARLIN_API ElementType parse_element_type(const std::string& name);  // ArgumentError for another name

// `data` points at element [0, ..., 0]. Strides count elements and may be zero or negative; empty: row-major.
struct ArrayView {
  const void* data = nullptr;
  ElementType type = ElementType::kF32;
  std::vector<int64_t> shape;
  std::vector<int64_t> strides = {};
};

// Row-major.
struct METAL_MARLIN_API Array {
  ElementType type = ElementType::kF32;
  std::vector<int64_t> shape;
  std::vector<std::byte> bytes;

  Array() = default;
  Array(ElementType element,
        std::vector<int64_t> dimensions);  // zeros; ArgumentError: a negative dimension or overflow

  int64_t elements() const noexcept { return static_cast<int64_t>(bytes.size() / element_size(type)); }
  ArrayView view() const { return {bytes.data(), type, shape}; }
  template <typename T>
  T* as() noexcept {
    return reinterpret_cast<T*>(bytes.data());
  }
  template <typename T>
  const T* as() const noexcept {
    return reinterpret_cast<const T*>(bytes.data());
  }
};

}  // namespace metal_marlin

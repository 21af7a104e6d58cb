// Arrays that pass into and out of the library: a strided view of memory that the caller keeps, and an array that owns
// its memory.
#pragma once

#include <metal_marlin/export.h>

#include <cstddef>
#include <cstdint>
#include <ranges>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace metal_marlin {

enum class ElementType : uint8_t { kBool, kI8, kU32, kF16, kBF16, kF32, kF64, kU8 };

METAL_MARLIN_API size_t element_size(ElementType type) noexcept;  // bytes
METAL_MARLIN_API const char* element_name(
    ElementType type) noexcept;  // as numpy: "bool", "int8", "uint32", "float16", "bfloat16", ...
METAL_MARLIN_API ElementType parse_element_type(const std::string& name);  // ArgumentError for another name
// Throws ArgumentError unless `shape` has so many elements.
METAL_MARLIN_API void require_elements(size_t elements, const std::vector<int64_t>& shape);

// The ElementType of a type of C++. float16 and bfloat16 have none: give their bits and the type's name to ArrayView.
template <typename T>
inline constexpr bool has_element_type = false;
template <typename T>
inline constexpr ElementType element_type = ElementType::kF32;
#define METAL_MARLIN_ELEMENT(Type, kType)              \
  template <>                                          \
  inline constexpr bool has_element_type<Type> = true; \
  template <>                                          \
  inline constexpr ElementType element_type<Type> = ElementType::kType
METAL_MARLIN_ELEMENT(bool, kBool);
METAL_MARLIN_ELEMENT(int8_t, kI8);
METAL_MARLIN_ELEMENT(uint8_t, kU8);
METAL_MARLIN_ELEMENT(uint32_t, kU32);
METAL_MARLIN_ELEMENT(float, kF32);
METAL_MARLIN_ELEMENT(double, kF64);
#undef METAL_MARLIN_ELEMENT

// Memory of the caller that holds elements of a type that has an ElementType: std::vector, std::array, std::span. A
// temporary that owns its elements is none, because the view would outlive them.
template <typename Range>
concept ElementRange =
    std::ranges::contiguous_range<Range> && std::ranges::sized_range<Range> && std::ranges::borrowed_range<Range> &&
    has_element_type<std::remove_cv_t<std::ranges::range_value_t<Range>>>;

// `data` points at element [0, ..., 0]. Strides count elements and may be zero or negative; empty: row-major. The
// memory stays the caller's and must outlive the view.
struct ArrayView {
  const void* data = nullptr;
  ElementType type = ElementType::kF32;
  std::vector<int64_t> shape = {};
  std::vector<int64_t> strides = {};

  ArrayView() = default;
  ArrayView(const void* memory, ElementType element, std::vector<int64_t> dimensions, std::vector<int64_t> steps = {})
      : data(memory), type(element), shape(std::move(dimensions)), strides(std::move(steps)) {}
  // Row-major values: ArrayView(weight, {rows, columns}). Throws ArgumentError unless `dimensions` has as many
  // elements.
  template <ElementRange Range>
  ArrayView(Range&& values, std::vector<int64_t> dimensions)
      : data(std::ranges::data(values)),
        type(element_type<std::remove_cv_t<std::ranges::range_value_t<Range>>>),
        shape(std::move(dimensions)) {
    require_elements(std::ranges::size(values), shape);
  }
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
  operator ArrayView() const { return view(); }  // so that a result can be given to the next function
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

// Arrays of Python to and from those of the library. The GIL is held.
#pragma once

#include <metal_marlin/array.h>
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <initializer_list>
#include <optional>

namespace metal_marlin::python {

namespace nb = nanobind;

// The argument `name`: a numpy array (also bfloat16 of ml_dtypes, any strides, either byte order), what offers DLPack
// (torch, mlx, ...) in the memory of the CPU, or what numpy.asarray takes. Keeps the memory alive.
class Input {
 public:
  // TypeError naming argument, expected and found unless the elements are of one of `types`.
  Input(nb::handle object, const char* name, std::initializer_list<ElementType> types);
  const ArrayView& view() const noexcept { return view_; }

 private:
  nb::ndarray<nb::ro> array_;
  ArrayView view_;
};
// float16, bfloat16, float32 or float64.
Input float_input(nb::handle object, const char* name);
std::optional<Input> optional_float_input(nb::handle object, const char* name);

// A numpy array that owns the memory.
nb::object to_numpy(Array&& array);

}  // namespace metal_marlin::python

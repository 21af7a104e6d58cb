#include "arrays.h"

#include <nanobind/stl/string.h>

#include <array>
#include <memory>
#include <string>

namespace metal_marlin::python {
namespace {

using Code = nb::dlpack::dtype_code;

struct Known {
  ElementType type;
  Code code;
  uint8_t bits;
};
constexpr std::array<Known, 8> kKnown = {{{ElementType::kBool, Code::Bool, 8},
                                          {ElementType::kI8, Code::Int, 8},
                                          {ElementType::kU32, Code::UInt, 32},
                                          {ElementType::kF16, Code::Float, 16},
                                          {ElementType::kBF16, Code::Bfloat, 16},
                                          {ElementType::kF32, Code::Float, 32},
                                          {ElementType::kF64, Code::Float, 64},
                                          {ElementType::kU8, Code::UInt, 8}}};

std::optional<ElementType> known_type(const nb::dlpack::dtype& dtype) {
  for (const Known& k : kKnown) {
    if (dtype.code == static_cast<uint8_t>(k.code) && dtype.bits == k.bits && dtype.lanes == 1) return k.type;
  }
  return {};
}

std::string text(nb::handle object) {
  return nb::cast<std::string>(nb::str(object));
}

[[noreturn]] void wrong_type(const char* name, std::initializer_list<ElementType> types, const std::string& found) {
  std::string wanted;
  for (const ElementType t : types) wanted += (wanted.empty() ? "" : ", ") + std::string(element_name(t));
  const std::string message = std::string(name) + ": expected an array of " + wanted + ", found " + found;
  throw nb::type_error(message.c_str());
}

bool is_allowed(std::initializer_list<ElementType> types, ElementType type) {
  for (const ElementType t : types) {
    if (t == type) return true;
  }
  return false;
}

}  // namespace

Input::Input(nb::handle object, const char* name, std::initializer_list<ElementType> types) {
  const nb::module_ numpy = nb::module_::import_("numpy");
  nb::object array = nb::borrow(object);
  std::optional<ElementType> type;
  if (object.is_none()) wrong_type(name, types, "None");
  const bool is_numpy = nb::isinstance(object, numpy.attr("ndarray"));
  if (!is_numpy && nb::hasattr(object, "__dlpack__")) {
    if (nb::hasattr(object, "requires_grad") && nb::cast<bool>(nb::bool_(object.attr("requires_grad"))))
      array = object.attr("detach")();
    if (!nb::try_cast(array, array_)) {
      wrong_type(name, types, text(nb::type_name(object.type())) + ", which its __dlpack__ does not hand over");
    }
    if (array_.device_type() != nb::device::cpu::value) {
      wrong_type(name, types, "one in the memory of another device; move it to the CPU first");
    }
    type = known_type(array_.dtype());
    if (!type || !is_allowed(types, *type)) {
      wrong_type(name, types, nb::hasattr(object, "dtype") ? text(object.attr("dtype")) : "another type");
    }
  } else {
    if (!is_numpy) array = numpy.attr("asarray")(object);
    nb::object dtype = array.attr("dtype");
    const std::string dtype_name = text(dtype.attr("name"));
    for (const Known& k : kKnown) {
      if (dtype_name == element_name(k.type)) type = k.type;
    }
    if (!type || !is_allowed(types, *type)) wrong_type(name, types, dtype_name);
    if (!nb::cast<bool>(dtype.attr("isnative"))) array = array.attr("astype")(dtype.attr("newbyteorder")("="));
    if (*type == ElementType::kBF16) array = array.attr("view")("uint16");
    // Fields of records may lie at addresses that no stride in elements describes.
    const auto size = static_cast<int64_t>(element_size(*type));
    bool whole = nb::cast<bool>(array.attr("flags").attr("aligned"));
    for (nb::handle stride : array.attr("strides")) whole = whole && nb::cast<int64_t>(stride) % size == 0;
    if (!whole) array = numpy.attr("array")(array, nb::arg("copy") = true, nb::arg("order") = "C");
    array_ = nb::cast<nb::ndarray<nb::ro>>(array);
  }
  view_.data = array_.data();
  view_.type = *type;
  for (size_t i = 0; i < array_.ndim(); ++i) {
    view_.shape.push_back(static_cast<int64_t>(array_.shape(i)));
    view_.strides.push_back(array_.stride(i));
  }
}

Input float_input(nb::handle object, const char* name) {
  return {object, name, {ElementType::kF16, ElementType::kBF16, ElementType::kF32, ElementType::kF64}};
}

std::optional<Input> optional_float_input(nb::handle object, const char* name) {
  if (object.is_none()) return {};
  return float_input(object, name);
}

nb::object to_numpy(Array&& array) {
  auto owned = std::make_unique<Array>(std::move(array));
  Array* a = owned.get();
  const nb::capsule owner(owned.release(), [](void* p) noexcept { delete static_cast<Array*>(p); });
  nb::dlpack::dtype dtype{};
  for (const Known& k : kKnown) {
    if (k.type == a->type) dtype = {static_cast<uint8_t>(k.code), k.bits, 1};
  }
  const bool bfloat = a->type == ElementType::kBF16;
  if (bfloat) dtype = nb::dtype<uint16_t>();
  std::vector<size_t> shape(a->shape.begin(), a->shape.end());
  nb::object out = nb::cast(nb::ndarray<nb::numpy>(a->bytes.data(), shape.size(), shape.data(), owner, nullptr, dtype));
  if (!bfloat) return out;
  // Without ml_dtypes the bits alone: torch and mlx have a type of their own for them.
  try {
    return out.attr("view")(nb::module_::import_("ml_dtypes").attr("bfloat16"));
  } catch (nb::python_error& error) {
    if (!error.matches(PyExc_ImportError)) throw;
  }
  return out;
}

}  // namespace metal_marlin::python

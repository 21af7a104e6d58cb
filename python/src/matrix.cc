#include <fmt/format.h>
#include <fmt/ranges.h>
#include <metal_marlin/error.h>
#include <metal_marlin/quantize_matrix.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <optional>
#include <string>
#include <utility>

#include "arrays.h"
#include "calls.h"
#include "core/enum_names.h"

namespace metal_marlin::python {
namespace {

template <class E>
E named(const std::string& argument, const std::string& name) {
  if (const std::optional<E> value = enum_named<E>(name)) return *value;
  throw ArgumentError(
      argument, fmt::format("{}: expected one of {}, found \"{}\"", argument, fmt::join(enum_names<E>(), ", "), name));
}

// codes, scales, zeros, input_scale, group_size, weight_error, output_error or None, exponent, damping, rounding
nb::tuple quantize(nb::handle weight, nb::handle inputs, const std::string& method, const std::string& scheme, int bits,
                   int64_t group_size, std::optional<double> damping, bool act_order, nb::handle on_progress) {
  MatrixOptions options;
  options.method = named<Method>("method", method);
  options.scheme = named<Scheme>("scheme", scheme);
  options.bits = bits;
  options.group_size = group_size;
  options.damping = damping;
  options.act_order = act_order;
  const Input w = float_input(weight, "weight");
  const std::optional<Input> x = optional_float_input(inputs, "inputs");
  Callbacks calls(on_progress);
  QuantizedMatrix q = calls.run([&] {
    return quantize_matrix(w.view(), x ? std::optional(x->view()) : std::nullopt, options, calls.observer());
  });
  calls.raise_pending();
  nb::object output_error = nb::none();
  if (q.output_error) output_error = nb::float_(*q.output_error);
  return nb::make_tuple(to_numpy(std::move(q.codes)), to_numpy(std::move(q.scales)), to_numpy(std::move(q.zeros)),
                        to_numpy(std::move(q.input_scale)), q.group_size, q.weight_error, output_error, q.exponent,
                        q.damping, q.rounding);
}

nb::object dequantize(nb::handle codes, nb::handle scales, nb::handle zeros, nb::handle input_scale, int64_t group_size,
                      const std::string& type) {
  const Input c(codes, "codes", {ElementType::kU8});
  const Input s = float_input(scales, "scales");
  const Input z(zeros, "zeros", {ElementType::kU8});
  const std::optional<Input> i = optional_float_input(input_scale, "input_scale");
  const ElementType element = parse_element_type(type);
  Callbacks calls;
  return to_numpy(calls.run([&] {
    return dequantize_matrix(c.view(), s.view(), z.view(), i ? std::optional(i->view()) : std::nullopt, group_size,
                             element);
  }));
}

}  // namespace

void bind_matrix(nb::module_& m) {
  m.def("quantize_matrix", &quantize, nb::arg("weight").none(), nb::arg("inputs").none(), nb::arg("method"),
        nb::arg("scheme"), nb::arg("bits"), nb::arg("group_size"), nb::arg("damping").none(), nb::arg("act_order"),
        nb::arg("on_progress").none(),
        nb::sig("def quantize_matrix(weight: object, inputs: object, method: str, scheme: str, bits: int, "
                "group_size: int, damping: float | None, act_order: bool, on_progress: object) -> "
                "tuple[numpy.typing.NDArray[numpy.uint8], numpy.typing.NDArray[numpy.float16], "
                "numpy.typing.NDArray[numpy.uint8], numpy.typing.NDArray[numpy.float32], int, float, float | None, "
                "float, float, str]"));
  m.def("dequantize_matrix", &dequantize, nb::arg("codes").none(), nb::arg("scales").none(), nb::arg("zeros").none(),
        nb::arg("input_scale").none(), nb::arg("group_size"), nb::arg("weights_dtype"),
        nb::sig("def dequantize_matrix(codes: object, scales: object, zeros: object, input_scale: object, group_size: "
                "int, weights_dtype: str) -> numpy.typing.NDArray[numpy.floating[typing.Any]]"));
}

}  // namespace metal_marlin::python

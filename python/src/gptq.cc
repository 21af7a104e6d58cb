#include <metal_marlin/gptq.h>
#include <nanobind/stl/string.h>

#include "arrays.h"
#include "calls.h"
#include "meta.h"

namespace metal_marlin::python {
namespace {

nb::tuple quantize(nb::handle weights, nb::handle activations, int64_t group_size, double damping, bool act_order, const std::string& scheme) {
  const Input w = float_input(weights, "weights");
  const Input x = float_input(activations, "activations");
  Callbacks calls;
  GPTQPacked r = calls.run([&] { return gptq_quantize(w.view(), x.view(), group_size, damping, act_order, scheme, calls.observer()); });
  return nb::make_tuple(to_numpy(std::move(r.Q)), to_numpy(std::move(r.scales)), to_numpy(std::move(r.zeros)), r.quantization_error,
                        to_dict(r.meta));
}

nb::object dequantize(nb::handle packed, nb::handle scales, nb::handle zeros, const nb::dict& meta, const std::string& type) {
  const Input p(packed, "packed", {ElementType::kU32});
  const Input s = float_input(scales, "scales");
  const Input z = float_input(zeros, "zeros");
  const AWQMeta m = from_dict(meta);
  const ElementType element = parse_element_type(type);
  Callbacks calls;
  return to_numpy(calls.run([&] { return gptq_dequantize(p.view(), s.view(), z.view(), m, element); }));
}

}  // namespace

void bind_gptq(nb::module_& m) {
  m.def("gptq_quantize", &quantize, nb::arg("weights").none(), nb::arg("activations").none(), nb::arg("group_size"), nb::arg("damping"), nb::arg("act_order"),
        nb::arg("scheme"));
  m.def("gptq_dequantize", &dequantize, nb::arg("packed").none(), nb::arg("scales").none(), nb::arg("zeros").none(), nb::arg("meta"), nb::arg("weights_dtype"));
}

}  // namespace metal_marlin::python

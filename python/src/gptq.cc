#include <metal_marlin/gptq.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "arrays.h"
#include "calls.h"
#include "meta.h"

namespace metal_marlin::python {
namespace {

nb::tuple quantize(nb::handle weights, nb::handle activations, int64_t group_size, double damping, bool act_order,
                   const std::string& scheme) {
  const Input w = float_input(weights, "weights");
  const Input x = float_input(activations, "activations");
  Callbacks calls;
  GPTQPacked r = calls.run(
      [&] { return gptq_quantize(w.view(), x.view(), group_size, damping, act_order, scheme, calls.observer()); });
  return nb::make_tuple(to_numpy(std::move(r.Q)), to_numpy(std::move(r.scales)), to_numpy(std::move(r.zeros)),
                        r.quantization_error, to_dict(r.meta));
}

nb::object dequantize(nb::handle packed, nb::handle scales, nb::handle zeros, const nb::dict& meta,
                      const std::string& type) {
  const Input p(packed, "packed", {ElementType::kU32});
  const Input s = float_input(scales, "scales");
  const Input z = float_input(zeros, "zeros");
  const AWQMeta m = from_dict(meta);
  const ElementType element = parse_element_type(type);
  Callbacks calls;
  return to_numpy(calls.run([&] { return gptq_dequantize(p.view(), s.view(), z.view(), m, element); }));
}

nb::object hessian(nb::handle activations, bool normalize) {
  const Input x = float_input(activations, "activations");
  Callbacks calls;
  return to_numpy(calls.run([&] { return compute_hessian(x.view(), normalize); }));
}

// Q, scales, zeros or None, perm as a list or None, quantization_error, total_error or None.
nb::tuple to_tuple(GPTQResult&& r) {
  nb::object zeros = nb::none();
  if (!r.zeros.shape.empty()) zeros = to_numpy(std::move(r.zeros));
  nb::object perm = nb::none();
  if (!r.perm.empty()) perm = nb::cast(r.perm);
  nb::object total = nb::none();
  if (r.total_error >= 0) total = nb::float_(r.total_error);
  return nb::make_tuple(to_numpy(std::move(r.Q)), to_numpy(std::move(r.scales)), zeros, perm, r.quantization_error,
                        total);
}

nb::tuple by_hessian(nb::handle weights, nb::handle h, int bits, int64_t group_size, bool sym, bool actorder,
                     double damp) {
  const Input w = float_input(weights, "W");
  const Input x = float_input(h, "H");
  Callbacks calls;
  return to_tuple(calls.run([&] {
    return quantize_layer_gptq(w.view(), x.view(), bits, group_size, sym, actorder, damp, calls.observer());
  }));
}

nb::tuple by_rounding(nb::handle weights, int bits, int64_t group_size, bool sym) {
  const Input w = float_input(weights, "W");
  Callbacks calls;
  return to_tuple(calls.run([&] { return quantize_rtn(w.view(), bits, group_size, sym); }));
}

nb::dict compare(nb::handle weights, nb::handle h, int bits, int64_t group_size) {
  const Input w = float_input(weights, "W");
  const Input x = float_input(h, "H");
  Callbacks calls;
  const GPTQComparison c =
      calls.run([&] { return compare_gptq_vs_rtn(w.view(), x.view(), bits, group_size, calls.observer()); });
  nb::dict d;
  d["rtn_mse"] = c.rtn_mse;
  d["gptq_mse"] = c.gptq_mse;
  d["improvement_ratio"] = c.improvement_ratio;
  d["rtn_total_error"] = c.rtn_total_error;
  d["gptq_total_error"] = c.gptq_total_error;
  return d;
}

nb::tuple pack(nb::handle values, nb::handle scales, nb::handle zeros, int64_t group_size,
               const std::vector<int64_t>& perm) {
  const Input q = float_input(values, "Q");
  const Input s = float_input(scales, "scales");
  const std::optional<Input> z = optional_float_input(zeros, "zeros");
  Callbacks calls;
  PackedGPTQ p = calls.run([&] {
    return pack_gptq_int4(q.view(), s.view(), z ? std::optional(z->view()) : std::nullopt, group_size, perm);
  });
  return nb::make_tuple(to_numpy(std::move(p.packed)), to_numpy(std::move(p.scales)), to_numpy(std::move(p.zeros)));
}

void check(int bits, int64_t group_size, bool sym, bool actorder, double damp) {
  GPTQQuantizer(bits, group_size, sym, actorder, damp);
}

}  // namespace

void bind_gptq(nb::module_& m) {
  m.def("gptq_quantize", &quantize, nb::arg("weights").none(), nb::arg("activations").none(), nb::arg("group_size"),
        nb::arg("damping"), nb::arg("act_order"), nb::arg("scheme"),
        nb::sig("def gptq_quantize(weights: object, activations: object, group_size: int, damping: float, act_order: "
                "bool, scheme: str) -> tuple[numpy.typing.NDArray[numpy.uint32], numpy.typing.NDArray[numpy.float16], "
                "numpy.typing.NDArray[numpy.float16], float, AWQMeta]"));
  m.def("gptq_dequantize", &dequantize, nb::arg("packed").none(), nb::arg("scales").none(), nb::arg("zeros").none(),
        nb::arg("meta"), nb::arg("weights_dtype"),
        nb::sig("def gptq_dequantize(packed: object, scales: object, zeros: object, meta: dict[str, typing.Any], "
                "weights_dtype: str) -> numpy.typing.NDArray[numpy.floating[typing.Any]]"));
  m.def("compute_hessian", &hessian, nb::arg("activations").none(), nb::arg("normalize"),
        nb::sig("def compute_hessian(activations: object, normalize: bool) -> numpy.typing.NDArray[numpy.float64]"));
  m.def("quantize_layer_gptq", &by_hessian, nb::arg("W").none(), nb::arg("H").none(), nb::arg("bits"),
        nb::arg("group_size"), nb::arg("sym"), nb::arg("actorder"), nb::arg("damp"),
        nb::sig("def quantize_layer_gptq(W: object, H: object, bits: int, group_size: int, sym: bool, actorder: bool, "
                "damp: float) -> tuple[numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[numpy.float32], "
                "numpy.typing.NDArray[numpy.float32] | None, list[int] | None, float, float | None]"));
  m.def("quantize_rtn", &by_rounding, nb::arg("W").none(), nb::arg("bits"), nb::arg("group_size"), nb::arg("sym"),
        nb::sig("def quantize_rtn(W: object, bits: int, group_size: int, sym: bool) -> "
                "tuple[numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[numpy.float32], "
                "numpy.typing.NDArray[numpy.float32] | None, list[int] | None, float, float | None]"));
  m.def("compare_gptq_vs_rtn", &compare, nb::arg("W").none(), nb::arg("H").none(), nb::arg("bits"),
        nb::arg("group_size"),
        nb::sig("def compare_gptq_vs_rtn(W: object, H: object, bits: int, group_size: int) -> "
                "GPTQComparison"));
  m.def("pack_gptq_int4", &pack, nb::arg("Q").none(), nb::arg("scales").none(), nb::arg("zeros").none(),
        nb::arg("group_size"), nb::arg("perm"),
        nb::sig("def pack_gptq_int4(Q: object, scales: object, zeros: object, group_size: int, perm: "
                "collections.abc.Sequence[int]) -> tuple[numpy.typing.NDArray[numpy.uint32], "
                "numpy.typing.NDArray[numpy.float16], numpy.typing.NDArray[numpy.float16]]"));
  m.def("check_gptq_options", &check, nb::arg("bits"), nb::arg("group_size"), nb::arg("sym"), nb::arg("actorder"),
        nb::arg("damp"));
}

}  // namespace metal_marlin::python

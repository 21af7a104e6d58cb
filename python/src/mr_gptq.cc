#include <metal_marlin/mr_gptq.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "arrays.h"
#include "calls.h"

namespace metal_marlin::python {
namespace {

std::optional<ArrayView> view_of(const std::optional<Input>& input) {
  return input ? std::optional(input->view()) : std::nullopt;
}
nb::object known(const std::optional<double>& value) {
  return value ? nb::object(nb::float_(*value)) : nb::none();
}

nb::tuple fp4(nb::handle weight, nb::handle hessian, int64_t group_size, bool actorder, double damp_factor,
              const std::string& scale_method) {
  const FP4GPTQQuantizer quantizer(group_size, actorder, damp_factor, scale_method);
  const Input w = float_input(weight, "W");
  const std::optional<Input> h = optional_float_input(hessian, "H");
  Callbacks calls;
  FP4GPTQResult r = calls.run([&] { return quantizer.quantize_weight(w.view(), view_of(h), calls.observer()); });
  return nb::make_tuple(to_numpy(std::move(r.packed)), to_numpy(std::move(r.scales)),
                        to_numpy(std::move(r.quant_indices)).attr("view")("uint8"), r.mse, known(r.output_error),
                        r.in_features, r.out_features, r.group_size);
}

nb::object fp4_back(nb::handle packed, nb::handle scales, int64_t out_features, int64_t group_size,
                    const std::string& type) {
  const Input p(packed, "packed", {ElementType::kU32});
  const Input s = float_input(scales, "scales");
  const ElementType element = parse_element_type(type);
  Callbacks calls;
  return to_numpy(
      calls.run([&] { return dequantize_fp4_gptq(p.view(), s.view(), out_features, group_size, element); }));
}

MRGPTQQuantizer quantizer_of(int bits, const std::string& format, int64_t group_size, bool use_hadamard, int64_t block,
                             std::optional<double> threshold, bool actorder, double percdamp) {
  return MRGPTQQuantizer(bits, parse_quantization_format(format), group_size, use_hadamard, block, threshold, actorder,
                         percdamp);
}

void check_mr(int bits, const std::string& format, int64_t group_size, bool use_hadamard, int64_t block,
              std::optional<double> threshold, bool actorder, double percdamp) {
  quantizer_of(bits, format, group_size, use_hadamard, block, threshold, actorder, percdamp);
}

nb::tuple mr(nb::handle weights, nb::handle hessian, int bits, const std::string& format, int64_t group_size,
             bool use_hadamard, int64_t block, std::optional<double> threshold, bool actorder, double percdamp) {
  const MRGPTQQuantizer quantizer =
      quantizer_of(bits, format, group_size, use_hadamard, block, threshold, actorder, percdamp);
  const Input w = float_input(weights, "weights");
  const std::optional<Input> h = optional_float_input(hessian, "hessian");
  Callbacks calls;
  MRGPTQResult r = calls.run([&] { return quantizer.quantize_layer(w.view(), view_of(h), {}, calls.observer()); });
  nb::dict d;
  d["original_shape"] = nb::make_tuple(r.out_features, r.in_features);
  d["format"] = quantization_format_name(r.format);
  d["group_size"] = r.group_size;
  d["use_hadamard"] = r.hadamard_block_size > 0;
  d["hadamard_block_size"] = r.hadamard_block_size;
  d["kurtosis"] = r.kurtosis;
  nb::dict e;
  e["mse"] = r.rmse * r.rmse;
  e["rmse"] = r.rmse;
  e["max_error"] = r.max_error;
  e["relative_error"] = r.relative_error;
  e["output_error"] = known(r.output_error);
  d["error"] = e;
  return nb::make_tuple(to_numpy(std::move(r.packed)), to_numpy(std::move(r.scales)), d);
}

nb::object mr_back(nb::handle packed, nb::handle scales, const std::string& format, int64_t in_features,
                   int64_t group_size, int64_t block, bool original_basis, const std::string& type) {
  const Input p(packed, "packed", {ElementType::kU32});
  const Input s = float_input(scales, "scales");
  const QuantizationFormat f = parse_quantization_format(format);
  const ElementType element = parse_element_type(type);
  Callbacks calls;
  return to_numpy(calls.run([&] {
    return mr_gptq_dequantize(p.view(), s.view(), f, in_features, group_size, block, original_basis, element);
  }));
}

nb::object rotate(nb::handle matrix, int64_t block_size) {
  const Input m = float_input(matrix, "matrix");
  Callbacks calls;
  return to_numpy(calls.run([&] { return hadamard_rotate(m.view(), block_size); }));
}

nb::object cholesky(nb::handle hessian, double regularization) {
  const Input h = float_input(hessian, "H");
  Callbacks calls;
  return to_numpy(calls.run([&] { return GPTQMetal().cholesky_decompose(h.view(), regularization); }));
}

nb::tuple metal(nb::handle weight, nb::handle hessian, int bits, int64_t blocksize, double percdamp) {
  const Input w = float_input(weight, "weight");
  const Input h = float_input(hessian, "H");
  Callbacks calls;
  GPTQMetal::Quantized q =
      calls.run([&] { return GPTQMetal().quantize_weight_gptq(w.view(), h.view(), bits, blocksize, percdamp); });
  return nb::make_tuple(to_numpy(std::move(q.weight)), to_numpy(std::move(q.scales)), to_numpy(std::move(q.zeros)));
}

void accumulate(HessianCollector& collector, nb::handle activations, const std::string& layer) {
  const Input x = float_input(activations, "x");
  Callbacks calls;
  calls.run([&] { return collector.accumulate(x.view(), layer), true; });
}

}  // namespace

void bind_mr_gptq(nb::module_& m) {
  m.def("fp4_gptq", &fp4, nb::arg("W").none(), nb::arg("H").none(), nb::arg("group_size"), nb::arg("actorder"),
        nb::arg("damp_factor"), nb::arg("scale_method"),
        nb::sig("def fp4_gptq(W: object, H: object, group_size: int, actorder: bool, damp_factor: float, scale_method: "
                "str) -> tuple[numpy.typing.NDArray[numpy.uint32], numpy.typing.NDArray[numpy.float16], "
                "numpy.typing.NDArray[numpy.uint8], float, float | None, int, int, int]"));
  m.def(
      "check_fp4_gptq",
      [](int64_t group_size, bool actorder, double damp_factor, const std::string& scale_method) {
        FP4GPTQQuantizer(group_size, actorder, damp_factor, scale_method);
      },
      nb::arg("group_size"), nb::arg("actorder"), nb::arg("damp_factor"), nb::arg("scale_method"));
  m.def("dequantize_fp4_gptq", &fp4_back, nb::arg("packed").none(), nb::arg("scales").none(), nb::arg("out_features"),
        nb::arg("group_size"), nb::arg("weights_dtype"),
        nb::sig("def dequantize_fp4_gptq(packed: object, scales: object, out_features: int, group_size: int, "
                "weights_dtype: str) -> numpy.typing.NDArray[numpy.floating[typing.Any]]"));
  m.def(
      "mr_gptq", &mr, nb::arg("weights").none(), nb::arg("hessian").none(), nb::arg("bits"), nb::arg("format"),
      nb::arg("group_size"), nb::arg("use_hadamard"), nb::arg("hadamard_block_size"),
      nb::arg("hadamard_kurtosis_threshold").none(), nb::arg("actorder"), nb::arg("percdamp"),
      nb::sig(
          "def mr_gptq(weights: object, hessian: object, bits: int, format: str, group_size: int, use_hadamard: bool, "
          "hadamard_block_size: int, hadamard_kurtosis_threshold: float | None, actorder: bool, percdamp: float) -> "
          "tuple[numpy.typing.NDArray[numpy.uint32], numpy.typing.NDArray[numpy.float16], dict[str, typing.Any]]"));
  m.def("check_mr_gptq", &check_mr, nb::arg("bits"), nb::arg("format"), nb::arg("group_size"), nb::arg("use_hadamard"),
        nb::arg("hadamard_block_size"), nb::arg("hadamard_kurtosis_threshold").none(), nb::arg("actorder"),
        nb::arg("percdamp"));
  m.def("mr_gptq_dequantize", &mr_back, nb::arg("packed").none(), nb::arg("scales").none(), nb::arg("format"),
        nb::arg("in_features"), nb::arg("group_size"), nb::arg("hadamard_block_size"), nb::arg("original_basis"),
        nb::arg("weights_dtype"),
        nb::sig("def mr_gptq_dequantize(packed: object, scales: object, format: str, in_features: int, group_size: "
                "int, hadamard_block_size: int, original_basis: bool, weights_dtype: str) -> "
                "numpy.typing.NDArray[numpy.floating[typing.Any]]"));
  m.def("hadamard_rotate", &rotate, nb::arg("matrix").none(), nb::arg("block_size"),
        nb::sig("def hadamard_rotate(matrix: object, block_size: int) -> numpy.typing.NDArray[numpy.float32]"));
  m.def(
      "quantization_levels",
      [](const std::string& format) { return quantization_levels(parse_quantization_format(format)); },
      nb::arg("format"));
  m.def("cholesky_decompose", &cholesky, nb::arg("H").none(), nb::arg("regularization"),
        nb::sig("def cholesky_decompose(H: object, regularization: float) -> numpy.typing.NDArray[numpy.float64]"));
  m.def("gptq_metal", &metal, nb::arg("weight").none(), nb::arg("H").none(), nb::arg("bits"), nb::arg("blocksize"),
        nb::arg("percdamp"),
        nb::sig("def gptq_metal(weight: object, H: object, bits: int, blocksize: int, percdamp: float) -> "
                "tuple[numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[numpy.float32], "
                "numpy.typing.NDArray[numpy.float32]]"));
  nb::class_<HessianCollector>(m, "HessianSums")
      .def(nb::init<int64_t>(), nb::arg("in_features"))
      .def("accumulate", &accumulate, nb::arg("x").none(), nb::arg("layer"),
           nb::sig("def accumulate(self, x: object, layer: str) -> None"))
      .def(
          "get_hessian",
          [](const HessianCollector& c, double damp, const std::string& layer) {
            return to_numpy(c.get_hessian(damp, layer));
          },
          nb::arg("damp"), nb::arg("layer"),
          nb::sig("def get_hessian(self, damp: float, layer: str) -> numpy.typing.NDArray[numpy.float64]"))
      .def(
          "get_raw_hessian",
          [](const HessianCollector& c, const std::string& layer) { return to_numpy(c.get_raw_hessian(layer)); },
          nb::arg("layer"), nb::sig("def get_raw_hessian(self, layer: str) -> numpy.typing.NDArray[numpy.float64]"))
      .def("n_samples", &HessianCollector::n_samples, nb::arg("layer"))
      .def("layer_names", &HessianCollector::layer_names)
      .def("merge", &HessianCollector::merge, nb::arg("other"))
      .def("reset", &HessianCollector::reset)
      .def("memory_bytes", &HessianCollector::memory_bytes);
}

}  // namespace metal_marlin::python

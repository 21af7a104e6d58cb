#include <metal_marlin/awq.h>
#include <nanobind/stl/string.h>

#include "arrays.h"
#include "calls.h"
#include "meta.h"

namespace metal_marlin::python {
namespace {

nb::tuple to_tuple(AWQResult&& r) {
  return nb::make_tuple(to_numpy(std::move(r.Q)), to_numpy(std::move(r.scales)), to_numpy(std::move(r.zeros)),
                        to_numpy(std::move(r.q_scale)), r.quantization_error, r.salient_ratio, to_dict(r.meta));
}

nb::object compute_stats(nb::handle activations, const std::string& method) {
  const Input x = float_input(activations, "activations");
  Callbacks calls;
  return to_numpy(calls.run([&] { return compute_activation_stats(x.view(), method); }));
}

nb::tuple find_salient(nb::handle weights, nb::handle statistics, double ratio) {
  const Input w = float_input(weights, "weights");
  const Input s = float_input(statistics, "activation_stats");
  Callbacks calls;
  SalientMask found = calls.run([&] { return find_salient_weights(w.view(), s.view(), ratio); });
  return nb::make_tuple(to_numpy(std::move(found.mask)), to_numpy(std::move(found.importance)));
}

nb::object salient_scaling(nb::handle weights, nb::handle mask, nb::handle scales, int64_t group_size,
                           nb::handle statistics, nb::handle gram) {
  const Input w = float_input(weights, "weights");
  const Input m(mask, "salient_mask", {ElementType::kBool});
  const Input s = float_input(scales, "scales");
  const std::optional<Input> a = optional_float_input(statistics, "activation_stats");
  const std::optional<Input> g = optional_float_input(gram, "gram");
  const auto view = [](const std::optional<Input>& i) { return i ? std::optional(i->view()) : std::nullopt; };
  Callbacks calls;
  return to_numpy(
      calls.run([&] { return compute_salient_scaling(w.view(), m.view(), s.view(), group_size, view(a), view(g)); }));
}

nb::tuple pack(nb::handle weights, nb::handle scales, nb::handle zeros, int64_t group_size) {
  const Input w(weights, "weights", {ElementType::kI8});
  const Input s = float_input(scales, "scales");
  const Input z = float_input(zeros, "zeros");
  Callbacks calls;
  PackedAWQ packed = calls.run([&] { return pack_awq_weights(w.view(), s.view(), z.view(), group_size); });
  return nb::make_tuple(to_numpy(std::move(packed.packed)), to_dict(packed.meta));
}

nb::object unpack(nb::handle packed, const nb::dict& meta) {
  const Input p(packed, "packed", {ElementType::kU32});
  const AWQMeta m = from_dict(meta);
  Callbacks calls;
  return to_numpy(calls.run([&] { return unpack_awq_weights(p.view(), m); }));
}

nb::tuple quantize(nb::handle weights, nb::handle activations, int64_t group_size, double ratio,
                   const std::string& method, const std::string& scheme) {
  const Input w = float_input(weights, "weights");
  const Input x = float_input(activations, "activations");
  Callbacks calls;
  return to_tuple(
      calls.run([&] { return awq_quantize(w.view(), x.view(), group_size, ratio, method, scheme, calls.observer()); }));
}

nb::object dequantize(nb::handle packed, nb::handle scales, nb::handle zeros, nb::handle q_scale, const nb::dict& meta,
                      const std::string& type) {
  const Input p(packed, "packed", {ElementType::kU32});
  const Input s = float_input(scales, "scales");
  const Input z = float_input(zeros, "zeros");
  const std::optional<Input> q = optional_float_input(q_scale, "q_scale");
  const AWQMeta m = from_dict(meta);
  const ElementType element = parse_element_type(type);
  Callbacks calls;
  return to_numpy(calls.run([&] {
    return awq_dequantize(p.view(), s.view(), z.view(), q ? std::optional(q->view()) : std::nullopt, m, element);
  }));
}

nb::list load_file(const std::string& path) {
  Callbacks calls;
  auto tensors = calls.run([&] { return awq_load(path); });
  nb::list out;
  for (auto& [name, result] : tensors) out.append(nb::make_tuple(name, to_tuple(std::move(result))));
  return out;
}

nb::dict quantize_model_by_activations(const std::string& model, const std::string& output,
                                       const std::string& activations, int64_t group_size, double ratio,
                                       const std::string& method, const std::string& scheme, nb::handle on_progress,
                                       nb::handle on_note, nb::handle on_warning) {
  Callbacks calls(on_progress, on_note, on_warning);
  const AWQModelStats stats = calls.run([&] {
    return awq_quantize_model(model, output, activations, group_size, ratio, method, scheme, calls.observer());
  });
  calls.raise_pending();
  nb::dict d;
  d["quantized_count"] = stats.quantized_count;
  d["skipped_count"] = stats.skipped_count;
  d["original_bytes"] = stats.original_bytes;
  d["quantized_bytes"] = stats.quantized_bytes;
  d["quant_type"] = stats.quant_type;
  d["group_size"] = stats.group_size;
  d["salient_ratio"] = stats.salient_ratio;
  d["compression_ratio"] = stats.compression_ratio;
  d["bits_per_weight"] = stats.bits_per_weight;
  nb::dict skipped;
  for (const auto& [name, reason] : stats.skipped) skipped[name.c_str()] = reason;
  d["skipped"] = skipped;
  return d;
}

}  // namespace

void bind_awq(nb::module_& m) {
  m.def(
      "compute_activation_stats", &compute_stats, nb::arg("activations").none(), nb::arg("method"),
      nb::sig("def compute_activation_stats(activations: object, method: str) -> numpy.typing.NDArray[numpy.float32]"));
  m.def("find_salient_weights", &find_salient, nb::arg("weights").none(), nb::arg("activation_stats").none(),
        nb::arg("salient_ratio"),
        nb::sig("def find_salient_weights(weights: object, activation_stats: object, salient_ratio: float) -> "
                "tuple[numpy.typing.NDArray[numpy.bool_], numpy.typing.NDArray[numpy.float32]]"));
  m.def("compute_salient_scaling", &salient_scaling, nb::arg("weights").none(), nb::arg("salient_mask").none(),
        nb::arg("scales").none(), nb::arg("group_size"), nb::arg("activation_stats").none(), nb::arg("gram").none(),
        nb::sig("def compute_salient_scaling(weights: object, salient_mask: object, scales: object, group_size: int, "
                "activation_stats: object, gram: object) -> numpy.typing.NDArray[numpy.float32]"));
  m.def("pack_awq_weights", &pack, nb::arg("weights").none(), nb::arg("scales").none(), nb::arg("zeros").none(),
        nb::arg("group_size"),
        nb::sig("def pack_awq_weights(weights: object, scales: object, zeros: object, group_size: int) -> "
                "tuple[numpy.typing.NDArray[numpy.uint32], AWQMeta]"));
  m.def("unpack_awq_weights", &unpack, nb::arg("packed").none(), nb::arg("meta"),
        nb::sig(
            "def unpack_awq_weights(packed: object, meta: dict[str, typing.Any]) -> numpy.typing.NDArray[numpy.int8]"));
  m.def("awq_quantize", &quantize, nb::arg("weights").none(), nb::arg("activations").none(), nb::arg("group_size"),
        nb::arg("salient_ratio"), nb::arg("activation_method"), nb::arg("scheme"),
        nb::sig("def awq_quantize(weights: object, activations: object, group_size: int, salient_ratio: float, "
                "activation_method: str, scheme: str) -> tuple[numpy.typing.NDArray[numpy.uint32], "
                "numpy.typing.NDArray[numpy.float16], numpy.typing.NDArray[numpy.float16], "
                "numpy.typing.NDArray[numpy.float16], float, float, AWQMeta]"));
  m.def("awq_dequantize", &dequantize, nb::arg("packed").none(), nb::arg("scales").none(), nb::arg("zeros").none(),
        nb::arg("q_scale").none(), nb::arg("meta"), nb::arg("weights_dtype"),
        nb::sig("def awq_dequantize(packed: object, scales: object, zeros: object, q_scale: object, meta: dict[str, "
                "typing.Any], weights_dtype: str) -> numpy.typing.NDArray[numpy.floating[typing.Any]]"));
  m.def("awq_load", &load_file, nb::arg("path"),
        nb::sig("def awq_load(path: str) -> list[tuple[str, tuple[numpy.typing.NDArray[numpy.uint32], "
                "numpy.typing.NDArray[numpy.float16], numpy.typing.NDArray[numpy.float16], "
                "numpy.typing.NDArray[numpy.float16], float, float, AWQMeta]]]"));
  m.def("awq_quantize_model", &quantize_model_by_activations, nb::arg("model_path"), nb::arg("output_path"),
        nb::arg("activations_path"), nb::arg("group_size"), nb::arg("salient_ratio"), nb::arg("activation_method"),
        nb::arg("scheme"), nb::arg("on_progress").none(), nb::arg("on_note").none(), nb::arg("on_warning").none(),
        nb::sig("def awq_quantize_model(model_path: str, output_path: str, activations_path: str, group_size: int, "
                "salient_ratio: float, activation_method: str, scheme: str, on_progress: object, on_note: object, "
                "on_warning: object) -> AWQModelStats"));
  m.attr("AWQ_SALIENT_RATIO") = kAwqSalientRatio;
  m.attr("AWQ_DEFAULT_GROUP_SIZE") = kAwqDefaultGroupSize;
  m.attr("FP4_PER_U32") = kFp4PerU32;
  m.attr("AWQ_QUANT_BITS") = kAwqQuantBits;
  m.attr("AWQ_MAX_INT4") = kAwqMaxInt4;
}

}  // namespace metal_marlin::python

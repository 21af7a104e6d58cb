#include <metal_marlin/mixed_precision.h>
#include <metal_marlin/report.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "arrays.h"
#include "calls.h"

namespace metal_marlin::python {
namespace {

// precision, group_size, symmetric
using Config = std::tuple<std::string, int64_t, bool>;

LayerQuantConfig config_of(const Config& c) {
  return {parse_precision(std::get<0>(c)), std::get<1>(c), std::get<2>(c)};
}
Config to_tuple(const LayerQuantConfig& c) {
  return {precision_name(c.precision), c.group_size, c.symmetric};
}
nb::object known(const std::optional<double>& value) {
  return value ? nb::object(nb::float_(*value)) : nb::none();
}

nb::object values(nb::handle weight, const Config& config, nb::handle hessian) {
  const LayerQuantConfig c = config_of(config);
  const Input w = float_input(weight, "W");
  const std::optional<Input> h = optional_float_input(hessian, "H");
  Callbacks calls;
  return to_numpy(calls.run(
      [&] { return quantize_values(w.view(), c, h ? std::optional(h->view()) : std::nullopt, calls.observer()); }));
}

nb::dict analyze(nb::handle weight, nb::handle hessian, const std::string& name, int64_t group_size) {
  const Input w = float_input(weight, "W");
  const Input h = float_input(hessian, "H");
  Callbacks calls;
  const LayerSensitivity s =
      calls.run([&] { return analyze_layer_sensitivity(w.view(), h.view(), name, group_size, calls.observer()); });
  nb::dict d;
  d["name"] = s.name;
  d["weights"] = s.weights;
  d["in_features"] = s.in_features;
  d["hessian_trace"] = s.hessian_trace;
  d["weight_variance"] = s.weight_variance;
  d["outlier_ratio"] = s.outlier_ratio;
  nb::list costs;
  for (const PrecisionCost& c : s.costs)
    costs.append(nb::make_tuple(to_tuple(c.config), known(c.kl), known(c.output_error)));
  d["costs"] = costs;
  return d;
}

nb::list profile(const std::string& sensitivity_json) {
  nb::list out;
  for (const LayerSensitivity& s : sensitivity_profile(sensitivity_from_json(sensitivity_json))) {
    nb::dict d;
    d["name"] = s.name;
    d["linears"] = s.linears;
    d["weights"] = s.weights;
    nb::list costs;
    for (const PrecisionCost& c : s.costs)
      costs.append(nb::make_tuple(to_tuple(c.config), known(c.kl), known(c.output_error)));
    d["costs"] = costs;
    out.append(d);
  }
  return out;
}

std::vector<std::string> rules(const std::vector<std::tuple<std::string, Config>>& layers) {
  std::map<std::string, LayerQuantConfig> configs;
  for (const auto& [name, config] : layers) configs[name] = config_of(config);
  return linear_bits(configs);
}

// Per layer: name, weights, in_features, [(config, cost)].
using Layer = std::tuple<std::string, int64_t, int64_t, std::vector<std::tuple<Config, double>>>;

std::vector<Config> choose(const std::vector<Layer>& layers, double target_bits) {
  std::vector<LayerSensitivity> profile;
  for (const auto& [name, weights, in_features, costs] : layers) {
    LayerSensitivity s;
    s.name = name;
    s.weights = weights;
    s.in_features = in_features;
    for (const auto& [config, cost] : costs) s.costs.push_back({config_of(config), cost, -1});
    profile.push_back(std::move(s));
  }
  std::vector<Config> chosen;
  for (const LayerQuantConfig& c : choose_precisions(profile, target_bits)) chosen.push_back(to_tuple(c));
  return chosen;
}

nb::dict figures(const std::string& report_json) {
  const QuantizationReport r = quantization_report(report_from_json(report_json));
  nb::dict d;
  d["model_path"] = r.model_path;
  d["formats"] = r.formats;
  d["bits"] = r.bits;
  d["group_size"] = r.group_size;
  d["actorder"] = r.actorder;
  d["quantized_layers"] = r.quantized_layers;
  d["skipped_layers"] = r.skipped_layers;
  d["total_params"] = r.total_params;
  d["quantized_params"] = r.quantized_params;
  d["compression_ratio"] = r.compression_ratio;
  d["bits_per_weight"] = r.bits_per_weight;
  d["mean_output_error"] = known(r.mean_output_error);
  d["kl_divergence"] = known(r.kl_divergence);
  nb::list layers;
  for (const QuantizationLayerReport& l : r.layers) {
    nb::dict e;
    e["name"] = l.name;
    e["shape"] = nb::tuple(nb::cast(l.shape));
    e["group_size"] = l.group_size;
    e["bits"] = l.bits;
    e["method"] = l.method;
    e["weight_error"] = l.weight_error;
    e["output_error"] = known(l.output_error);
    layers.append(e);
  }
  d["layers"] = layers;
  return d;
}

}  // namespace

void bind_mixed_precision(nb::module_& m) {
  m.def("quantize_values", &values, nb::arg("W").none(), nb::arg("config"), nb::arg("H").none(),
        nb::sig("def quantize_values(W: object, config: tuple[str, int, bool], H: object) -> "
                "numpy.typing.NDArray[numpy.float32]"));
  m.def(
      "analyze_layer_sensitivity", &analyze, nb::arg("W").none(), nb::arg("H").none(), nb::arg("name"),
      nb::arg("group_size"),
      nb::sig(
          "def analyze_layer_sensitivity(W: object, H: object, name: str, group_size: int) -> dict[str, typing.Any]"));
  m.def("choose_precisions", &choose, nb::arg("profile"), nb::arg("target_bits"));
  m.def("layer_role", &layer_role, nb::arg("name"));
  m.def(
      "bits_per_weight",
      [](const Config& config, int64_t in_features) { return bits_per_weight(config_of(config), in_features); },
      nb::arg("config"), nb::arg("in_features"));
  m.def("sensitivity_profile", &profile, nb::arg("sensitivity_json"),
        nb::sig("def sensitivity_profile(sensitivity_json: str) -> list[dict[str, typing.Any]]"));
  m.def("linear_bits", &rules, nb::arg("layers"));
  m.def("read_report", [](const std::string& run) { return read_report(run).to_json(); }, nb::arg("run"));
  const auto rendering = [&](const char* name, std::string (*render)(const Report&)) {
    m.def(name, [render](const std::string& json) { return render(report_from_json(json)); }, nb::arg("report_json"));
  };
  rendering("render_report_summary", &render_report_summary);
  rendering("render_report_text", &render_report_text);
  rendering("render_report_html", &render_report_html);
  m.def("report_figures", &figures, nb::arg("report_json"),
        nb::sig("def report_figures(report_json: str) -> dict[str, typing.Any]"));
}

}  // namespace metal_marlin::python

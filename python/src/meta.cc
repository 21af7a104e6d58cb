#include "meta.h"

#include <nanobind/stl/string.h>

#include <optional>
#include <string>
#include <type_traits>

namespace metal_marlin::python {

namespace nb = nanobind;

namespace {

template <typename T>
T get(const nb::dict& d, const char* key, std::optional<T> otherwise = {}) {
  if (!d.contains(key)) {
    if (otherwise) return *otherwise;
    throw nb::value_error((std::string("meta: expected the key \"") + key + "\", found none").c_str());
  }
  T value{};
  if (!nb::try_cast(d[key], value)) {
    throw nb::type_error((std::string("meta: ") + key + ": expected " +
                          (std::is_same_v<T, std::string> ? "a string" : "an integer") + ", found " +
                          nb::cast<std::string>(nb::str(nb::type_name(nb::object(d[key]).type()))))
                             .c_str());
  }
  return value;
}

}  // namespace

nb::dict to_dict(const AWQMeta& m) {
  nb::dict d;
  d["in_features"] = m.in_features;
  d["out_features"] = m.out_features;
  d["group_size"] = m.group_size;
  d["quant_type"] = m.quant_type;
  d["padded_in_features"] = m.padded_in_features;
  d["scheme"] = m.scheme;
  d["code_offset"] = m.code_offset;
  if (m.output_error && m.weight_error) {
    d["output_error"] = *m.output_error;
    d["weight_error"] = *m.weight_error;
    d["exponent"] = m.exponent;
    d["salient_weights"] = m.salient_weights;
    d["salient_channels"] = m.salient_channels;
    d["raised_scales"] = m.raised_scales;
  }
  return d;
}

AWQMeta from_dict(const nb::dict& d) {
  AWQMeta m;
  m.in_features = get<int64_t>(d, "in_features");
  m.out_features = get<int64_t>(d, "out_features");
  m.group_size = get<int64_t>(d, "group_size");
  m.quant_type = get<std::string>(d, "quant_type");
  m.padded_in_features = get<int64_t>(d, "padded_in_features", 0);
  m.code_offset = get<int>(d, "code_offset", 8);
  return m;
}

}  // namespace metal_marlin::python

// compare: how the weights of two checkpoints differ.
#include <fmt/format.h>
#include <metal_marlin/error.h>
#include <metal_marlin/inspect.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "core/threads.h"
#include "source/model_source.h"

namespace metal_marlin {

using nlohmann::ordered_json;

namespace {

// Layer of "model.layers.12.mlp...", or -1.
int64_t layer_of(const std::string& name, const std::string& prefix) {
  if (name.rfind(prefix, 0) != 0) return -1;
  return std::atoll(name.c_str() + prefix.size());
}

struct Difference {
  double difference = 0;  // sum (b - a)^2
  double size = 0;        // sum a^2
  double max = 0;         // max |b - a|
  double relative() const { return size > 0 ? std::sqrt(difference / size) : std::sqrt(difference); }
};

Difference difference_of(const Matrix& a, const Matrix& b) {
  Difference d;
  for (int64_t i = 0; i < a.size(); ++i) {
    const double x = a.data()[i];
    const double e = b.data()[i] - x;
    d.difference += e * e;
    d.size += x * x;
    d.max = std::max(d.max, std::fabs(e));
  }
  return d;
}

}  // namespace

std::string compare_models(const std::string& a, const std::string& b, const MachineOptions& machine) {
  if (machine.threads > 0) set_threads(machine.threads);
  const auto source_a = ModelSource::open(a);
  const auto source_b = ModelSource::open(b);
  std::map<std::string, CheckpointTensor> of_b;
  for (CheckpointTensor& t : source_b->tensors()) of_b.emplace(t.name, std::move(t));
  ordered_json j;
  j["a"] = source_a->path();
  j["b"] = source_b->path();
  ordered_json tensors = ordered_json::array();
  ordered_json only_a = ordered_json::array();
  std::map<int64_t, Difference> layers;
  Difference total;
  for (const CheckpointTensor& t : source_a->tensors()) {
    const auto it = of_b.find(t.name);
    if (it == of_b.end()) {
      only_a.push_back(t.name);
      continue;
    }
    if (it->second.shape != t.shape) {
      throw FormatError(fmt::format("{}: {} has the shape {}, expected {} as in {}", source_b->path(), t.name,
                                    shape_string(it->second.shape), shape_string(t.shape), source_a->path()));
    }
    const Difference d = difference_of(source_a->load(t.name), source_b->load(t.name));
    source_a->release(t.name);
    source_b->release(t.name);
    tensors.push_back({{"name", t.name}, {"shape", t.shape}, {"relative_error", d.relative()}, {"max_error", d.max},
                       {"stored_as", {t.stored_as, it->second.stored_as}}});
    for (Difference* sum : {&layers[layer_of(t.name, source_a->family().layer_prefix)], &total}) {
      sum->difference += d.difference;
      sum->size += d.size;
      sum->max = std::max(sum->max, d.max);
    }
    of_b.erase(it);
  }
  ordered_json only_b = ordered_json::array();
  for (const auto& [name, t] : of_b) only_b.push_back(name);
  ordered_json layer_table = ordered_json::array();
  for (const auto& [layer, d] : layers) {
    if (layer >= 0) layer_table.push_back({{"layer", layer}, {"relative_error", d.relative()}, {"max_error", d.max}});
  }
  j["relative_error"] = total.relative();
  j["layers"] = layer_table;
  j["tensors"] = tensors;
  j["only_in_a"] = only_a;
  j["only_in_b"] = only_b;
  return j.dump(2);
}

std::string render_comparison(const std::string& text) {
  const auto j = ordered_json::parse(text);
  std::string out = fmt::format("A {}\nB {}\nrelative error of B's weights: {:.5f}\n", j["a"].get<std::string>(),
                                j["b"].get<std::string>(), j["relative_error"].get<double>());
  out += fmt::format("\n{:>6} {:>14} {:>12}\n", "layer", "relative error", "max error");
  for (const auto& l : j["layers"]) {
    out += fmt::format("{:>6} {:>14.5f} {:>12.5f}\n", l["layer"].get<int64_t>(), l["relative_error"].get<double>(), l["max_error"].get<double>());
  }
  out += fmt::format("\n{:<58} {:>14} {:>12}  {}\n", "tensor", "relative error", "max error", "stored as");
  for (const auto& t : j["tensors"]) {
    out += fmt::format("{:<58} {:>14.5f} {:>12.5f}  {} / {}\n", t["name"].get<std::string>(), t["relative_error"].get<double>(),
                       t["max_error"].get<double>(), t["stored_as"][0].get<std::string>(), t["stored_as"][1].get<std::string>());
  }
  for (const char* key : {"only_in_a", "only_in_b"}) {
    for (const auto& name : j[key]) out += fmt::format("only in {}: {}\n", key[8] == 'a' ? "A" : "B", name.get<std::string>());
  }
  return out;
}

}  // namespace metal_marlin

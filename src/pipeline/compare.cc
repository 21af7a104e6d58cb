// compare: how the weights of two checkpoints differ.
#include <fmt/format.h>
#include <metal_marlin/error.h>
#include <metal_marlin/inspect.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "core/threads.h"
#include "model/block.h"
#include "source/model_source.h"

namespace metal_marlin {

using nlohmann::ordered_json;

namespace {

struct Difference {
  double difference = 0;  // sum (b - a)^2
  double size = 0;        // sum a^2
  double max = 0;         // max |b - a|
  double relative() const { return size > 0 ? std::sqrt(difference / size) : std::sqrt(difference); }
};

Difference difference_of(const std::string& name, const Matrix& a, const Matrix& b) {
  Difference d;
  for (int64_t i = 0; i < a.size(); ++i) {
    const double x = a.data()[i];
    const double e = b.data()[i] - x;
    d.difference += e * e;
    d.size += x * x;
    d.max = std::max(d.max, std::fabs(e));
  }
  if (!std::isfinite(d.difference) || !std::isfinite(d.size))
    throw NumericError(fmt::format("tensor {}: holds NaN or Inf", name));
  return d;
}

// y = (W diag(norm)) x without the norm's weight: what a linear does whatever part of its scale stands in the norm.
void absorb_norm(const ModelSource& source, Block& block, NormKind norm, LinearInput input) {
  const auto& weight = block.norm(norm);
  if (weight.empty()) return;
  for (int k = 0; k < kLinears; ++k) {
    const auto kind = static_cast<LinearKind>(k);
    if (input_of(kind) != input) continue;
    Matrix& w = block.linear(kind).weight;
    for (int64_t r = 0; r < w.rows(); ++r) {
      for (int64_t c = 0; c < w.cols(); ++c) {
        const float n = weight[static_cast<size_t>(c)];
        w(r, c) *= source.family().offset_norm ? 1.0F + n : n;
      }
    }
  }
}

// Row r of B's producer is A's row divided by some s: the least-squares s, by which the row is multiplied again.
std::vector<float> unscale_rows(const Matrix& a, Matrix& b) {
  std::vector<float> factors;
  for (int64_t r = 0; r < a.rows(); ++r) {
    double ab = 0;
    double bb = 0;
    for (int64_t c = 0; c < a.cols(); ++c) {
      ab += static_cast<double>(a(r, c)) * b(r, c);
      bb += static_cast<double>(b(r, c)) * b(r, c);
    }
    const float s = bb > 0 && ab > 0 ? static_cast<float>(ab / bb) : 1.0F;
    factors.push_back(s);
    for (int64_t c = 0; c < b.cols(); ++c) b(r, c) *= s;
  }
  return factors;
}

// Undoes what folding moved between neighbours, so that only the error of the weights is left.
void unfold(const ModelSource& source_a, const ModelSource& source_b, Block& a, Block& b) {
  for (const auto& [norm, input] :
       {std::pair{NormKind::kInput, LinearInput::kQkv}, {NormKind::kPreFeedForward, LinearInput::kGateUp}}) {
    absorb_norm(source_a, a, norm, input);
    absorb_norm(source_b, b, norm, input);
  }
  const ModelConfig& c = source_a.config();
  const auto v = unscale_rows(a.linear(LinearKind::kV).weight, b.linear(LinearKind::kV).weight);
  Matrix& o = b.linear(LinearKind::kO).weight;
  const int64_t shared = c.num_attention_heads / c.num_key_value_heads;
  for (int64_t r = 0; r < o.rows(); ++r) {
    for (int64_t k = 0; k < o.cols(); ++k) {
      o(r, k) /= v[static_cast<size_t>(k / c.head_dim / shared * c.head_dim + k % c.head_dim)];
    }
  }
  const auto up = unscale_rows(a.linear(LinearKind::kUp).weight, b.linear(LinearKind::kUp).weight);
  Matrix& down = b.linear(LinearKind::kDown).weight;
  for (int64_t r = 0; r < down.rows(); ++r) {
    for (int64_t k = 0; k < down.cols(); ++k) down(r, k) /= up[static_cast<size_t>(k)];
  }
}

}  // namespace

std::string compare_models(const std::string& a, const std::string& b, const MachineOptions& machine) {
  const ThreadCount thread_count(machine.threads);
  const auto source_a = ModelSource::open(a);
  const auto source_b = ModelSource::open(b);
  source_a->check();
  source_b->check();
  std::map<std::string, CheckpointTensor> of_a;
  std::map<std::string, CheckpointTensor> of_b;
  for (CheckpointTensor& t : source_a->tensors()) of_a.emplace(t.name, std::move(t));
  for (CheckpointTensor& t : source_b->tensors()) of_b.emplace(t.name, std::move(t));
  for (const auto& [name, t] : of_a) {
    const auto it = of_b.find(name);
    if (it != of_b.end() && it->second.shape != t.shape) {
      throw FormatError(fmt::format("{}: {} has the shape {}, expected {} as in {}", source_b->path(), name,
                                    shape_string(it->second.shape), shape_string(t.shape), source_a->path()));
    }
  }
  if (source_a->config().num_hidden_layers != source_b->config().num_hidden_layers ||
      source_a->family().linears != source_b->family().linears) {
    throw ArgumentError(
        fmt::format("{} and {}: expected two checkpoints of one model, found {} layers of {} and {} of {}", a, b,
                    source_a->config().num_hidden_layers, source_a->family().name, source_b->config().num_hidden_layers,
                    source_b->family().name));
  }
  ordered_json j;
  j["a"] = source_a->path();
  j["b"] = source_b->path();
  ordered_json tensors = ordered_json::array();
  ordered_json layer_table = ordered_json::array();
  Difference total;
  const auto add = [](Difference& sum, const Difference& d) {
    sum.difference += d.difference;
    sum.size += d.size;
    sum.max = std::max(sum.max, d.max);
  };
  std::set<std::string> seen;
  const auto row = [&](const std::string& name, const std::string& stored, const Difference& d) {
    const CheckpointTensor& t = of_a.at(stored);
    tensors.push_back({{"name", name},
                       {"shape", t.shape},
                       {"relative_error", d.relative()},
                       {"max_error", d.max},
                       {"stored_as", {t.stored_as, of_b.at(stored).stored_as}}});
    seen.insert(stored);
  };
  for (int64_t layer = 0; layer < source_a->config().num_hidden_layers; ++layer) {
    Block block_a = load_block(*source_a, layer);
    Block block_b = load_block(*source_b, layer);
    unfold(*source_a, *source_b, block_a, block_b);
    Difference sum;
    const auto slots = source_a->linears(layer);
    for (const LinearSlot& slot : slots) {
      const Difference d =
          difference_of(slot.weight, block_a.linear(slot.kind).weight, block_b.linear(slot.kind).weight);
      const bool fused =
          std::count_if(slots.begin(), slots.end(), [&](const LinearSlot& s) { return s.weight == slot.weight; }) > 1;
      row(fused ? fmt::format("{}[{}]", slot.weight, linear_kind_name(slot.kind)) : slot.weight, slot.weight, d);
      add(sum, d);
      source_a->release(slot.weight);
      source_b->release(slot.weight);
    }
    for (const NormKind kind : {NormKind::kInput, NormKind::kPreFeedForward})
      seen.insert(source_a->norm_name(layer, kind));
    add(total, sum);
    layer_table.push_back({{"layer", layer}, {"relative_error", sum.relative()}, {"max_error", sum.max}});
  }
  ordered_json only_a = ordered_json::array();
  for (const auto& [name, t] : of_a) {
    if (of_b.count(name) == 0) only_a.push_back(name);
    if (of_b.count(name) == 0 || seen.count(name) > 0) continue;
    row(name, name, difference_of(name, source_a->load(name), source_b->load(name)));
    source_a->release(name);
    source_b->release(name);
  }
  ordered_json only_b = ordered_json::array();
  for (const auto& [name, t] : of_b) {
    if (of_a.count(name) == 0) only_b.push_back(name);
  }
  j["relative_error"] = total.relative();
  j["layers"] = layer_table;
  j["tensors"] = tensors;
  j["only_in_a"] = only_a;
  j["only_in_b"] = only_b;
  return j.dump(2, ' ', false, ordered_json::error_handler_t::replace);
}

std::string render_comparison(const std::string& text) {
  const auto j = ordered_json::parse(text);
  std::string out = fmt::format("A {}\nB {}\nrelative error of the linears of B: {:.5f}\n", j["a"].get<std::string>(),
                                j["b"].get<std::string>(), j["relative_error"].get<double>());
  out += fmt::format("\n{:>6} {:>14} {:>12}\n", "layer", "relative error", "max error");
  for (const auto& l : j["layers"]) {
    out += fmt::format("{:>6} {:>14.5f} {:>12.5f}\n", l["layer"].get<int64_t>(), l["relative_error"].get<double>(),
                       l["max_error"].get<double>());
  }
  out += fmt::format("\n{:<58} {:>14} {:>12}  {}\n", "tensor", "relative error", "max error", "stored as");
  for (const auto& t : j["tensors"]) {
    out += fmt::format("{:<58} {:>14.5f} {:>12.5f}  {} / {}\n", t["name"].get<std::string>(),
                       t["relative_error"].get<double>(), t["max_error"].get<double>(),
                       t["stored_as"][0].get<std::string>(), t["stored_as"][1].get<std::string>());
  }
  for (const char* key : {"only_in_a", "only_in_b"}) {
    for (const auto& name : j[key])
      out += fmt::format("only in {}: {}\n", key[8] == 'a' ? "A" : "B", name.get<std::string>());
  }
  return out;
}

}  // namespace metal_marlin

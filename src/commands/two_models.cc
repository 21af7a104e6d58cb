#include "commands/two_models.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <utility>

#include "core/counted.h"

namespace metal_marlin {
namespace {

std::map<std::string, CheckpointTensor> by_name(const ModelSource& source) {
  std::map<std::string, CheckpointTensor> out;
  for (CheckpointTensor& t : source.tensors()) out.emplace(t.name, std::move(t));
  return out;
}

std::vector<std::string> without(const std::map<std::string, CheckpointTensor>& these,
                                 const std::map<std::string, CheckpointTensor>& those) {
  std::vector<std::string> out;
  for (const auto& [name, t] : these) {
    if (those.count(name) == 0) out.push_back(name);
  }
  return out;
}

}  // namespace

std::vector<std::string> TwoModels::only_in_a() const {
  return without(of_a, of_b);
}

std::vector<std::string> TwoModels::only_in_b() const {
  return without(of_b, of_a);
}

std::vector<std::string> TwoModels::warnings() const {
  std::vector<std::string> out = a->warnings();
  if (a->path() != b->path()) out.insert(out.end(), b->warnings().begin(), b->warnings().end());
  return out;
}

TwoModels open_two(const std::string& a, const std::string& b) {
  TwoModels two{ModelSource::open(a), ModelSource::open(b), {}, {}};
  two.a->check();
  two.b->check();
  two.of_a = by_name(*two.a);
  two.of_b = by_name(*two.b);
  for (const auto& [name, t] : two.of_a) {
    const auto it = two.of_b.find(name);
    if (it != two.of_b.end() && it->second.shape != t.shape) {
      throw FormatError(fmt::format("{}: {} has the shape {}, expected {} as in {}", two.b->path(),
                                    two.b->stored_name(name), shape_string(it->second.shape), shape_string(t.shape),
                                    two.a->path()));
    }
  }
  const ModelConfig& config_a = two.a->config();
  const ModelConfig& config_b = two.b->config();
  if (config_a.num_hidden_layers != config_b.num_hidden_layers || two.a->family().linears != two.b->family().linears) {
    throw ArgumentError(fmt::format("{} and {}: expected two checkpoints of one model, found {} of {} and {} of {}", a,
                                    b, counted(config_a.num_hidden_layers, "layer"), two.a->family().name,
                                    config_b.num_hidden_layers, two.b->family().name));
  }
  return two;
}

}  // namespace metal_marlin

#include "pipeline/left_out.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

namespace metal_marlin {
namespace {

// The number behind `prefix`, or -1.
int64_t layer_behind(const std::string& name, const std::string& prefix) {
  if (!name.starts_with(prefix)) return -1;
  int64_t layer = -1;
  const char* end = name.data() + name.size();
  const auto [stop, code] = std::from_chars(name.data() + prefix.size(), end, layer);
  return code == std::errc() && stop != end && *stop == '.' ? layer : -1;
}

// -1: not of a layer that the config does not count.
int64_t surplus_layer(const ModelSource& source, const std::string& name) {
  const int64_t layer = std::max(layer_behind(name, source.family().layer_prefix), layer_behind(name, "blk."));
  return layer >= source.config().num_hidden_layers ? layer : -1;
}

}  // namespace

std::vector<Skipped> left_out_tensors(const ModelSource& source) {
  std::vector<Skipped> out;
  for (const CheckpointTensor& t : source.left_out()) {
    const int64_t layer = surplus_layer(source, t.name);
    out.push_back({t.name, !t.reason.empty() ? t.reason
                           : layer < 0
                               ? "not part of the language model"
                               : fmt::format("layer {}, but the config has num_hidden_layers {}: not part of the model",
                                             layer, source.config().num_hidden_layers)});
  }
  return out;
}

std::string surplus_layers_warning(const ModelSource& source) {
  int64_t tensors = 0;
  int64_t first = -1;
  int64_t last = -1;
  for (const CheckpointTensor& t : source.left_out()) {
    const int64_t layer = surplus_layer(source, t.name);
    if (layer < 0) continue;
    ++tensors;
    first = first < 0 ? layer : std::min(first, layer);
    last = std::max(last, layer);
  }
  if (tensors == 0) return "";
  return fmt::format(
      "{}: {} tensors of layer{} {} are left out: the config has num_hidden_layers {}; correct it if they belong to "
      "the model",
      source.path(), tensors, first == last ? "" : "s",
      first == last ? fmt::format("{}", first) : fmt::format("{} to {}", first, last),
      source.config().num_hidden_layers);
}

}  // namespace metal_marlin

#include "check/engine_layers.h"

#include <algorithm>
#include <array>
#include <map>
#include <string_view>

namespace metal_marlin {
namespace {

struct Place {
  std::string_view part;
  std::string_view layer;
};

// Parts stand in the order of their rows.
constexpr std::array<Place, 9> kPlaces = {{{"q_proj", "qkv_proj"},
                                           {"k_proj", "qkv_proj"},
                                           {"v_proj", "qkv_proj"},
                                           {"gate_proj", "gate_up_proj"},
                                           {"up_proj", "gate_up_proj"},
                                           {"qkv_proj", "qkv_proj"},
                                           {"gate_up_proj", "gate_up_proj"},
                                           {"o_proj", "o_proj"},
                                           {"down_proj", "down_proj"}}};

}  // namespace

bool EngineLayer::quantized() const {
  return std::any_of(parts.begin(), parts.end(), [](const ModuleFact* m) { return m->quantized(); });
}

bool EngineLayer::in_floats() const {
  return std::any_of(parts.begin(), parts.end(), [](const ModuleFact* m) { return !m->quantized(); });
}

std::optional<int64_t> EngineLayer::rows() const {
  int64_t sum = 0;
  for (const ModuleFact* m : parts) {
    if (!m->rows || *m->rows > (int64_t{1} << 40)) return std::nullopt;
    sum += *m->rows;
  }
  return sum;
}

std::vector<EngineLayer> engine_layers(const CheckpointFacts& facts) {
  std::vector<EngineLayer> out;
  std::map<std::string, size_t> found;
  for (const auto& [name, module] : facts.modules) {
    const std::string last = module.last();
    const auto* place = std::find_if(kPlaces.begin(), kPlaces.end(), [&](const Place& p) { return p.part == last; });
    if (place == kPlaces.end() || name.find("layers.") == std::string::npos) continue;
    const std::string layer = module.parent() + "." + std::string(place->layer);
    const auto [it, is_new] = found.emplace(layer, out.size());
    if (is_new) out.push_back({.name = layer, .splits_columns = last == "o_proj" || last == "down_proj"});
    out[it->second].parts.push_back(&module);
    if (!is_new) continue;
    for (const Place& p : kPlaces) {
      if (p.part != p.layer && p.layer == place->layer && place->part != place->layer)
        out[it->second].part_names.push_back(module.parent() + "." + std::string(p.part));
    }
    if (out[it->second].part_names.empty()) out[it->second].part_names.push_back(name);
  }
  return out;
}

}  // namespace metal_marlin

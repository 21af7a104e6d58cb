#include "layouts/config/mlx_config.h"

#include <nlohmann/json.hpp>

namespace metal_marlin {

using nlohmann::json;

void add_mlx_rope(json& config) {
  const auto found = config.find("rope_parameters");
  if (found == config.end() || !found->is_object()) return;
  const json rope = *found;
  const auto put = [&](const char* key, const json& from, const char* name) {
    if (!config.contains(key) && from.contains(name)) config[key] = from[name];
  };
  const auto kind = [&](const char* name) {
    return rope.contains(name) && rope[name].is_object() ? rope[name] : json();
  };
  const json full = kind("full_attention");
  const json& usual = full.is_object() ? full : rope;
  put("rope_theta", usual, "rope_theta");
  if (const json sliding = kind("sliding_attention"); sliding.is_object())
    put("rope_local_base_freq", sliding, "rope_theta");
  const auto type = usual.find("rope_type");
  if (config.contains("rope_scaling") || type == usual.end() || *type == "default") return;
  json scaling = usual;
  scaling.erase("rope_theta");
  scaling["type"] = *type;
  config["rope_scaling"] = std::move(scaling);
}

}  // namespace metal_marlin

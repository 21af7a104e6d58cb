#include "families/config/config_twins.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "formats/text.h"

namespace metal_marlin {
namespace {

using nlohmann::json;

const json* find(const json& object, const char* key) {
  const auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

std::string value_text(const json& value) {
  return escaped(value.dump(-1, ' ', false, json::error_handler_t::replace), 120);
}

// Names of one thing.
std::string rope_alias(const std::string& type) {
  if (type == "su") return "longrope";
  return type == "mrope" ? "default" : type;
}

void settle_types(const json& rope, const std::string& name, const std::string& file,
                  std::vector<std::string>& warnings) {
  const json* type = find(rope, "rope_type");
  const json* old = find(rope, "type");
  if (type == nullptr || old == nullptr || !type->is_string() || !old->is_string()) return;
  if (rope_alias(type->get<std::string>()) == rope_alias(old->get<std::string>())) return;
  // Early Phi-3 files say "yarn" where they mean longrope.
  if (*type == "longrope" && *old == "yarn" && rope.contains("short_factor")) return;
  warnings.push_back(
      fmt::format("{}: {}.rope_type is {}, and {}.type is {}; rope_type counts, as in transformers, and other engines "
                  "take type: remove the wrong one",
                  file, name, value_text(*type), name, value_text(*old)));
}

// A number beside the rope's object and another one in it.
void settle_numbers(const json& config, const json& rope, const std::string& name, const std::string& file,
                    std::vector<std::string>& warnings) {
  for (const char* key : {"rope_theta", "partial_rotary_factor"}) {
    const json* outer = find(config, key);
    const json* inner = find(rope, key);
    if (outer == nullptr || inner == nullptr || *outer == *inner) continue;
    warnings.push_back(
        fmt::format("{}: {} is {}, and {}.{} is {}; the latter counts, as in transformers, and other engines take the "
                    "former: remove the wrong one",
                    file, key, value_text(*outer), name, key, value_text(*inner)));
  }
  constexpr const char* kOriginal = "original_max_position_embeddings";
  const json* outer = find(config, kOriginal);
  const json* inner = find(rope, kOriginal);
  if (outer != nullptr && inner != nullptr && *outer != *inner) {
    throw FormatError(
        fmt::format("{}: {} is {}, and {}.{} is {}; engines differ in which of them counts: remove the "
                    "wrong one",
                    file, kOriginal, value_text(*outer), name, kOriginal, value_text(*inner)));
  }
}

// Without what says the same.
json plain_rope(json rope, const json& config) {
  if (rope.is_object() && !rope.contains("rope_type") && rope.contains("type")) rope["rope_type"] = rope["type"];
  if (rope.is_object()) rope.erase("type");
  if (rope.is_object() && !rope.contains("rope_theta")) rope["rope_theta"] = config.value("rope_theta", json(10000.0));
  return rope;
}

void settle_pair(const json& config, const std::string& file, const char* counts, const char* other,
                 std::vector<std::string>& warnings) {
  const json* a = find(config, counts);
  const json* b = find(config, other);
  if (a == nullptr || b == nullptr || *a == *b) return;
  warnings.push_back(fmt::format("{}: {} is {}, and {} is {}; {} counts, as in transformers: remove the wrong one",
                                 file, counts, value_text(*a), other, value_text(*b), counts));
}

// Sets by the layers' types: rope_scaling goes over the set of full attention.
void settle_nested(const json& scaling, const json& parameters, const std::string& file,
                   std::vector<std::string>& warnings) {
  const json* full = find(parameters, "full_attention");
  if (full == nullptr || !full->is_object()) return;
  const json theta = {{"rope_theta", full->value("rope_theta", json())}};
  if (plain_rope(scaling, theta) == plain_rope(*full, theta)) return;
  warnings.push_back(fmt::format(
      "{}: rope_scaling is {}, and rope_parameters.full_attention is {}; rope_scaling counts in layers with full "
      "attention, as in transformers: remove the wrong one",
      file, value_text(scaling), value_text(*full)));
}

// Which layers slide: layer_types says it of each, a pattern of every so many.
void settle_patterns(const json& config, const std::string& file, std::vector<std::string>& warnings) {
  const json* types = find(config, "layer_types");
  if (types == nullptr || !types->is_array()) {
    settle_pair(config, file, "sliding_window_pattern", "_sliding_window_pattern", warnings);
    return;
  }
  for (const char* key : {"sliding_window_pattern", "_sliding_window_pattern"}) {
    const json* pattern = find(config, key);
    if (pattern == nullptr || !pattern->is_number_integer() || pattern->get<int64_t>() < 1) continue;
    for (size_t i = 0; i < types->size(); ++i) {
      const bool slides = (static_cast<int64_t>(i) + 1) % pattern->get<int64_t>() != 0;
      const char* by_pattern = slides ? "sliding_attention" : "full_attention";
      if ((*types)[i] == by_pattern) continue;
      warnings.push_back(
          fmt::format("{}: {} is {}, by which layer {} is {}, and layer_types[{}] is {}; layer_types counts, as in "
                      "transformers: remove the wrong one",
                      file, key, value_text(*pattern), i, by_pattern, i, value_text((*types)[i])));
      break;
    }
  }
}

}  // namespace

void settle_twins(const ConfigReader& reader, bool by_layer_type, std::vector<std::string>& warnings) {
  const json& config = reader.object();
  const std::string& file = reader.file();
  const json* scaling = find(config, "rope_scaling");
  const json* parameters = find(config, "rope_parameters");
  if (scaling != nullptr && (!scaling->is_object() || scaling->empty())) scaling = nullptr;
  if (parameters != nullptr && (!parameters->is_object() || parameters->empty())) parameters = nullptr;
  const auto nested = [](const json& rope) {
    return find(rope, "full_attention") != nullptr || find(rope, "sliding_attention") != nullptr;
  };
  if (scaling != nullptr && parameters != nullptr && nested(*parameters))
    settle_nested(*scaling, *parameters, file, warnings);
  if (scaling != nullptr && parameters != nullptr && !nested(*parameters) &&
      plain_rope(*scaling, config) != plain_rope(*parameters, config)) {
    warnings.push_back(fmt::format(
        "{}: rope_scaling is {}, and rope_parameters is {}; rope_scaling counts, as in transformers: remove "
        "the wrong one",
        file, value_text(*scaling), value_text(*parameters)));
  }
  for (const auto& [name, rope] : {std::pair{"rope_scaling", scaling}, {"rope_parameters", parameters}}) {
    if (rope == nullptr) continue;
    // One set does not count beside rope_scaling, nor where the family has one for each of the layers' types.
    if (rope == parameters && !nested(*rope) && (scaling != nullptr || by_layer_type)) continue;
    if (!nested(*rope)) {
      settle_types(*rope, name, file, warnings);
      settle_numbers(config, *rope, name, file, warnings);
      continue;
    }
    for (const char* layers : {"full_attention", "sliding_attention"}) {
      const json* of_layers = find(*rope, layers);
      if (of_layers == nullptr || !of_layers->is_object()) continue;
      settle_types(*of_layers, fmt::format("{}.{}", name, layers), file, warnings);
    }
    const json* full = find(*rope, "full_attention");
    if (full != nullptr && full->is_object())
      settle_numbers(config, *full, fmt::format("{}.full_attention", name), file, warnings);
    const json* sliding = find(*rope, "sliding_attention");
    const json* local = find(config, "rope_local_base_freq");
    if (sliding != nullptr && sliding->is_object() && local != nullptr) {
      const json* theta = find(*sliding, "rope_theta");
      if (theta != nullptr && *theta != *local) {
        warnings.push_back(fmt::format(
            "{}: rope_local_base_freq is {}, and {}.sliding_attention.rope_theta is {}; the latter counts, as in "
            "transformers: remove the wrong one",
            file, value_text(*local), name, value_text(*theta)));
      }
    }
  }
  settle_pair(config, file, "dtype", "torch_dtype", warnings);
  for (const char* twin : {"num_kv_heads", "n_kv_heads", "n_head_kv", "multi_query_group_num"})
    settle_pair(config, file, "num_key_value_heads", twin, warnings);
  settle_patterns(config, file, warnings);
}

}  // namespace metal_marlin

#include "families/config/read_model_config.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "core/counted.h"
#include "families/config/config_reader.h"
#include "families/config/config_twins.h"
#include "families/configure.h"
#include "families/family.h"
#include "formats/text.h"

namespace metal_marlin {
namespace {

// A missing key means the family's default, null that there is none.
std::optional<int64_t> find_size(const ConfigReader& config, const Family& family, const char* key, int64_t high) {
  if (!config.names(key)) {
    for (const auto& [name, value] : family.defaults) {
      if (name == key) return value;
    }
  }
  return config.find_int(key, 1, high);
}

void read_sizes(const ConfigReader& config, const Family& family, ModelConfig& out) {
  const auto find = [&](const char* key, int64_t high) { return find_size(config, family, key, high); };
  const auto get = [&](const char* key, int64_t high) {
    const auto n = find(key, high);
    return n ? *n : config.get_int(key, 1, high);
  };
  out.vocab_size = get("vocab_size", kLargestSize);
  out.hidden_size = config.get_int("hidden_size", 1, kLargestSize);
  out.intermediate_size = config.get_int("intermediate_size", 1, kLargestSize);
  out.num_hidden_layers = config.get_int("num_hidden_layers", 1, 100000);
  out.num_attention_heads = get("num_attention_heads", 1 << 20);
  out.num_key_value_heads = find("num_key_value_heads", 1 << 20).value_or(out.num_attention_heads);
  if (out.num_attention_heads % out.num_key_value_heads != 0) {
    config.fail("num_key_value_heads", fmt::format("a divisor of num_attention_heads ({})", out.num_attention_heads));
  }
  if (const auto head_dim = find("head_dim", 1 << 20)) {
    out.head_dim = *head_dim;
  } else {
    if (out.hidden_size % out.num_attention_heads != 0) {
      config.fail("num_attention_heads",
                  fmt::format("a divisor of hidden_size ({}), since head_dim is not given", out.hidden_size));
    }
    out.head_dim = out.hidden_size / out.num_attention_heads;
  }
  if (out.head_dim % 2 != 0) config.fail("head_dim", "an even number");
  out.max_position_embeddings = find("max_position_embeddings", kLargestSize).value_or(2048);
}

void read_ropes(const ConfigReader& config, const Family& family, ModelConfig& out) {
  RopeConfig defaults;
  defaults.theta = config.find_number("rope_theta", 1, kLargestTheta).value_or(10000.0);
  defaults.partial_rotary_factor = config.find_number("partial_rotary_factor", 1e-6, 1).value_or(1.0);
  defaults.original_max_position_embeddings =
      config.find_int("original_max_position_embeddings", 1, kLargestSize).value_or(out.max_position_embeddings);
  defaults.original_given = config.has("original_max_position_embeddings");
  out.rope = defaults;
  // transformers lets the older name win where both are given.
  auto rope = config.find_object("rope_scaling");
  if (!rope || rope->object().empty()) rope = config.find_object("rope_parameters");
  const bool by_layer_type = rope && (rope->has("full_attention") || rope->has("sliding_attention"));
  if (by_layer_type && !family.rope_by_layer_type) {
    config.fail(config.has("rope_scaling") && !config.find_object("rope_scaling")->object().empty() ? "rope_scaling"
                                                                                                    : "rope_parameters",
                fmt::format("one set of parameters, since layers of the family {} do not differ in them", family.name));
  }
  if (rope && !by_layer_type && !family.rope_by_layer_type) out.rope = read_rope(*rope, defaults);
  out.local_rope = out.rope;
}

// Dimensions of a head, not their share: in GGUF the key holds their number.
int64_t turning_dimensions(const RopeConfig& rope, const ModelConfig& config) {
  return static_cast<int64_t>(static_cast<double>(config.head_dim) * rope.partial_rotary_factor);
}

void warn_of_ropes(const Family& family, const std::string& file, ModelConfig& out) {
  for (const RopeConfig* r : {&out.rope, &out.local_rope}) {
    if (r->partial_rotary_factor == 1 || family.partial_rotary) continue;
    out.warnings.push_back(fmt::format(
        "{}: partial_rotary_factor: turns {} of the {} dimensions of a head, where engines differ for the family {}: "
        "transformers turns all of them, others and this program only these; if the model was made without the key, "
        "remove it",
        file, turning_dimensions(*r, out), out.head_dim, family.name));
    break;
  }
  if (out.rope.type == RopeType::kYarn && !out.rope.original_given) {
    out.warnings.push_back(
        fmt::format("{}: rope type \"yarn\" has no original_max_position_embeddings: max_position_embeddings ({}) is "
                    "taken, as transformers does; other engines refuse it",
                    file, out.max_position_embeddings));
  }
}

void check_ropes(const ModelConfig& out, const std::string& file) {
  const int64_t turning = turning_dimensions(out.rope, out);
  for (const RopeConfig* r : {&out.rope, &out.local_rope}) {
    const int64_t found = turning_dimensions(*r, out);
    if (found >= 2 && found % 2 == 0) continue;
    throw FormatError(fmt::format(
        "{}: partial_rotary_factor: expected it to turn an even number of the {} of a head, at least 2, found "
        "{}; correct it as the model's publisher has it",
        file, counted(out.head_dim, "dimension"), found));
  }
  if (out.rope.type == RopeType::kLongrope && out.rope.original_max_position_embeddings < 2) {
    throw FormatError(fmt::format("{}: original_max_position_embeddings: expected at least 2, found {}", file,
                                  out.rope.original_max_position_embeddings));
  }
  for (const auto& [key, values] :
       {std::pair{"short_factor", &out.rope.short_factor}, {"long_factor", &out.rope.long_factor}}) {
    if (out.rope.type == RopeType::kLongrope && static_cast<int64_t>(values->size()) != turning / 2) {
      throw FormatError(
          fmt::format("{}: rope_scaling.{}: expected {}, one per pair of the {} turning dimensions, "
                      "found {}",
                      file, key, counted(turning / 2, "number"), turning, values->size()));
    }
  }
}

}  // namespace

ModelConfig read_model_config(const nlohmann::json& json, const Family& family, const std::string& file) {
  const ConfigReader config(json, file);
  ModelConfig out;
  out.model_type = config.find_string("model_type").value_or(family.model_types.front());
  read_sizes(config, family, out);
  out.rms_norm_eps = config.find_number("rms_norm_eps", 0, 1).value_or(1e-6);
  out.activation = read_activation(config, "hidden_act", Activation::kSilu);
  out.tie_word_embeddings = config.find_bool("tie_word_embeddings").value_or(false);
  out.attention_bias = config.find_bool("attention_bias").value_or(false);
  out.attention_output_bias = out.attention_bias;
  out.mlp_bias = config.find_bool("mlp_bias").value_or(false);
  out.query_scale = 1 / std::sqrt(static_cast<double>(out.head_dim));
  out.torch_dtype = config.find_string("dtype").value_or(config.find_string("torch_dtype").value_or("float32"));

  read_ropes(config, family, out);
  settle_twins(config, family.rope_by_layer_type, out.warnings);

  const auto layers = static_cast<size_t>(out.num_hidden_layers);
  out.sliding_window.assign(layers, 0);
  out.layer_uses_local_rope.assign(layers, false);
  for (const int64_t id : config.find_ints("eos_token_id", -1, kLargestSize)) {
    if (id >= 0) out.eos_token_ids.push_back(static_cast<int32_t>(id));
  }
  const auto bos = config.find_ints("bos_token_id", -1, kLargestSize);
  if (!bos.empty()) out.bos_token_id = static_cast<int32_t>(bos.front());
  if (family.configure) family.configure(config, out);
  warn_of_ropes(family, file, out);
  check_ropes(out, file);
  return out;
}

}  // namespace metal_marlin

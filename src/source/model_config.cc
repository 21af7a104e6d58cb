#include "source/model_config.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "core/counted.h"
#include "formats/text.h"
#include "source/config_reader.h"
#include "source/config_twins.h"
#include "source/families/configure.h"
#include "source/family.h"

namespace metal_marlin {
namespace {

constexpr double kHuge = 1e12;

RopeType rope_type_of(const std::string& name, const std::string& file) {
  if (name == "default" || name == "mrope") return RopeType::kDefault;
  if (name == "linear") return RopeType::kLinear;
  if (name == "dynamic") return RopeType::kDynamic;
  if (name == "llama3") return RopeType::kLlama3;
  if (name == "yarn") return RopeType::kYarn;
  if (name == "longrope" || name == "su") return RopeType::kLongrope;
  throw UnsupportedError(fmt::format(
      "{}: rope type {} is not supported; supported are default, linear, dynamic, llama3, yarn and longrope", file,
      shown(name)));
}

}  // namespace

Activation read_activation(const ConfigReader& config, const char* key, Activation otherwise) {
  const auto name = config.find_string(key);
  if (!name) return otherwise;
  if (*name == "silu" || *name == "swish") return Activation::kSilu;
  if (*name == "gelu") return Activation::kGelu;
  if (*name == "gelu_pytorch_tanh" || *name == "gelu_new" || *name == "gelu_tanh") return Activation::kGeluTanh;
  if (*name == "relu") return Activation::kRelu;
  throw UnsupportedError(fmt::format("{}: {} {} is not supported; supported are silu, gelu, gelu_pytorch_tanh and relu",
                                     config.file(), key, shown(*name)));
}

namespace {

// What a type needs and has no default for. A model that was trained with scaling is another model without it.
void require_scaling_keys(const ConfigReader& r, const RopeConfig& rope, bool named, const std::string& type) {
  const auto require = [&](const char* key, const char* expected) {
    if (!r.has(key)) r.fail(key, fmt::format("{}, which rope type \"{}\" needs", expected, type));
  };
  if (rope.type == RopeType::kLlama3) {
    require("low_freq_factor", "a positive number");
    require("high_freq_factor", "a positive number");
    if (!rope.original_given) require("original_max_position_embeddings", "a positive integer");
  }
  if (type == "mrope") require("mrope_section", "the numbers of dimensions for time, height and width");
  if (named) return;
  for (const char* key : {"factor", "low_freq_factor", "high_freq_factor", "short_factor", "long_factor", "beta_fast",
                          "beta_slow", "attention_factor", "mscale", "mscale_all_dim"}) {
    if (!r.has(key)) continue;
    r.fail("rope_type",
           fmt::format("the type of scaling that {} belongs to (linear, dynamic, llama3, yarn or longrope)", key));
  }
}

}  // namespace

RopeConfig read_rope(const ConfigReader& r, const RopeConfig& defaults) {
  RopeConfig rope = defaults;
  rope.theta = r.find_number("rope_theta", 1, kHuge).value_or(rope.theta);
  const auto type = r.find_string("rope_type");
  const auto old_type = r.find_string("type");
  const std::string name = type.value_or(old_type.value_or("default"));
  rope.type = rope_type_of(name, r.file());
  if (r.has("original_max_position_embeddings")) rope.original_given = true;
  require_scaling_keys(r, rope, type || old_type, name);
  // Early Phi-3 files say "yarn" where they mean longrope, and transformers reads them so.
  if (rope.type == RopeType::kYarn && r.has("short_factor")) rope.type = RopeType::kLongrope;
  if (rope.type == RopeType::kLongrope) {
    rope.factor = r.find_number("factor", 1e-6, 1e6).value_or(0);
    for (const auto& [key, values] :
         {std::pair{"short_factor", &rope.short_factor}, {"long_factor", &rope.long_factor}}) {
      const auto numbers = r.find_numbers(key, 1e-6, 1e6);
      if (!numbers) r.fail(key, "an array of numbers, one per pair of turning dimensions");
      *values = *numbers;
    }
  } else if (rope.type != RopeType::kDefault) {
    const auto factor = r.find_number("factor", 1e-6, 1e6);
    if (!factor) r.fail("factor", "a number from 1e-06 to 1e+06");
    rope.factor = *factor;
  }
  rope.partial_rotary_factor = r.find_number("partial_rotary_factor", 1e-6, 1).value_or(rope.partial_rotary_factor);
  rope.original_max_position_embeddings =
      r.find_int("original_max_position_embeddings", 1, kLargestSize).value_or(rope.original_max_position_embeddings);
  rope.low_freq_factor = r.find_number("low_freq_factor", 1e-6, 1e6).value_or(rope.low_freq_factor);
  rope.high_freq_factor = r.find_number("high_freq_factor", 1e-6, 1e6).value_or(rope.high_freq_factor);
  rope.beta_fast = r.find_number("beta_fast", 1e-6, 1e6).value_or(rope.beta_fast);
  rope.beta_slow = r.find_number("beta_slow", 1e-6, 1e6).value_or(rope.beta_slow);
  rope.attention_factor = r.find_number("attention_factor", 1e-6, 1e6).value_or(rope.attention_factor);
  rope.mscale = r.find_number("mscale", 0, 1e6).value_or(rope.mscale);
  rope.mscale_all_dim = r.find_number("mscale_all_dim", 0, 1e6).value_or(rope.mscale_all_dim);
  rope.truncate = r.find_bool("truncate").value_or(rope.truncate);
  if (rope.type == RopeType::kLongrope && !r.has("factor") && !rope.original_given) {
    r.fail("original_max_position_embeddings",
           "a positive integer here or beside rope_scaling, or a factor, one of which rope type \"longrope\" needs");
  }
  if (rope.type == RopeType::kLlama3 && rope.high_freq_factor <= rope.low_freq_factor) {
    r.fail("high_freq_factor", fmt::format("a number above low_freq_factor ({})", rope.low_freq_factor));
  }
  return rope;
}

void set_windows(const ConfigReader& config, std::optional<int64_t> window, const std::function<bool(int64_t)>& slides,
                 ModelConfig& out) {
  const auto types = config.find_strings("layer_types");
  if (types && static_cast<int64_t>(types->size()) != out.num_hidden_layers) {
    throw FormatError(fmt::format("{}: layer_types: expected {}, one per layer, found {}", config.file(),
                                  counted(out.num_hidden_layers, "entry", "entries"), types->size()));
  }
  for (int64_t i = 0; i < out.num_hidden_layers; ++i) {
    bool sliding = slides(i);
    if (types) {
      const std::string& type = (*types)[static_cast<size_t>(i)];
      if (type != "full_attention" && type != "sliding_attention") {
        throw UnsupportedError(
            fmt::format("{}: layer_types[{}]: {} is not supported; supported are full_attention and sliding_attention",
                        config.file(), i, shown(type)));
      }
      sliding = type == "sliding_attention";
    }
    if (sliding && !window) config.fail("sliding_window", "a positive integer, since layers slide");
    out.sliding_window[static_cast<size_t>(i)] = sliding ? *window : 0;
  }
}

ModelConfig read_model_config(const nlohmann::json& json, const Family& family, const std::string& file) {
  const ConfigReader config(json, file);
  ModelConfig out;
  out.model_type = config.find_string("model_type").value_or(family.model_types.front());
  // A missing key means the family's default, null that there is none.
  const auto find = [&](const char* key, int64_t high) -> std::optional<int64_t> {
    if (!config.names(key)) {
      for (const auto& [name, value] : family.defaults) {
        if (name == key) return value;
      }
    }
    return config.find_int(key, 1, high);
  };
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
  out.rms_norm_eps = config.find_number("rms_norm_eps", 0, 1).value_or(1e-6);
  out.activation = read_activation(config, "hidden_act", Activation::kSilu);
  out.tie_word_embeddings = config.find_bool("tie_word_embeddings").value_or(false);
  out.attention_bias = config.find_bool("attention_bias").value_or(false);
  out.attention_output_bias = out.attention_bias;
  out.mlp_bias = config.find_bool("mlp_bias").value_or(false);
  out.query_scale = 1 / std::sqrt(static_cast<double>(out.head_dim));
  out.torch_dtype = config.find_string("dtype").value_or(config.find_string("torch_dtype").value_or("float32"));

  RopeConfig defaults;
  defaults.theta = config.find_number("rope_theta", 1, kHuge).value_or(10000.0);
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
  // Dimensions, not the share: in GGUF the key holds their number.
  const auto turning_of = [&](const RopeConfig& r) {
    return static_cast<int64_t>(static_cast<double>(out.head_dim) * r.partial_rotary_factor);
  };
  for (const RopeConfig* r : {&out.rope, &out.local_rope}) {
    if (r->partial_rotary_factor == 1 || family.partial_rotary) continue;
    out.warnings.push_back(fmt::format(
        "{}: partial_rotary_factor: turns {} of the {} dimensions of a head, where engines differ for the family {}: "
        "transformers turns all of them, others and this program only these; if the model was made without the key, "
        "remove it",
        file, turning_of(*r), out.head_dim, family.name));
    break;
  }
  if (out.rope.type == RopeType::kYarn && !out.rope.original_given) {
    out.warnings.push_back(
        fmt::format("{}: rope type \"yarn\" has no original_max_position_embeddings: max_position_embeddings ({}) is "
                    "taken, as transformers does; other engines refuse it",
                    file, out.max_position_embeddings));
  }
  const int64_t turning = turning_of(out.rope);
  for (const RopeConfig* r : {&out.rope, &out.local_rope}) {
    if (turning_of(*r) >= 2 && turning_of(*r) % 2 == 0) continue;
    throw FormatError(fmt::format(
        "{}: partial_rotary_factor: expected it to turn an even number of the {} of a head, at least 2, found "
        "{}; correct it as the model's publisher has it",
        file, counted(out.head_dim, "dimension"), turning_of(*r)));
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
  return out;
}

}  // namespace metal_marlin

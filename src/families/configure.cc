#include "families/configure.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include "core/counted.h"
#include "formats/text.h"

namespace metal_marlin {
namespace {

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
  rope.theta = r.find_number("rope_theta", 1, kLargestTheta).value_or(rope.theta);
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

}  // namespace metal_marlin

#include "checkpoint/gguf/gguf_config.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <numbers>
#include <string>
#include <string_view>
#include <utility>

#include "core/counted.h"
#include "core/files/mapped_file.h"
#include "families/config/surplus_tensors.h"
#include "families/tensor_names.h"
#include "formats/text.h"

namespace metal_marlin {
namespace {

using nlohmann::json;

// The factor by which llama3 scaling divides the frequency of a pair (transformers: _compute_llama3_parameters).
double llama3_factor(double wavelength, double factor, double low, double high, double original) {
  if (wavelength < original / high) return 1;
  if (wavelength > original / low) return factor;
  const double smooth = (original / wavelength - low) / (high - low);
  return 1 / ((1 - smooth) / factor + smooth);
}

// The file holds the float32 of a short decimal: that one, not its expansion.
double short_decimal(double x) {
  const auto single = static_cast<float>(x);
  return std::isfinite(x) && static_cast<double>(single) == x ? std::strtod(fmt::format("{}", single).c_str(), nullptr)
                                                              : x;
}

// The divisors of longrope, one per pair of turning dimensions.
std::vector<double> rope_factors(const GgufSet& file, const char* name, int64_t turning) {
  const GgufTensor* tensor = file.find(name);
  if (tensor == nullptr || tensor->shape != std::vector<int64_t>{turning / 2}) {
    throw FormatError(fmt::format("{}: tensor {}: expected [{}], found {}", file.path(), name, turning / 2,
                                  tensor == nullptr ? "no such tensor" : shape_string(tensor->shape)));
  }
  std::vector<float> factors(static_cast<size_t>(turning / 2));
  dequantize_rows(*tensor, 0, 1, factors.data());
  std::vector<double> out;
  for (const float f : factors) out.push_back(short_decimal(static_cast<double>(f)));
  return out;
}

// llama.cpp stores llama3 scaling as a tensor of factors; the four numbers behind it are found again: the published
// ones where they fit, else from the pairs between the two bounds, where 1 / factor is linear in 1 / wavelength.
json llama3_scaling(const GgufSet& file, const GgufTensor& tensor, double theta, int64_t rotary) {
  const int64_t n = tensor.elements();
  if (n != rotary / 2 || tensor.shape.size() != 1) {
    throw FormatError(fmt::format("{}: rope_freqs.weight: expected [{}], found {}", file.path(), rotary / 2,
                                  shape_string(tensor.shape)));
  }
  std::vector<float> factors(static_cast<size_t>(n));
  dequantize_rows(tensor, 0, 1, factors.data());
  for (size_t i = 0; i < factors.size(); ++i) {
    if (factors[i] >= 1e-6F && factors[i] <= 1e6F) continue;
    throw FormatError(
        fmt::format("{}: rope_freqs.weight: expected numbers from 1e-06 to 1e+06, found {} at element {}; convert the "
                    "model anew",
                    file.path(), factors[i], i));
  }
  std::vector<double> wavelengths;
  for (int64_t i = 0; i < n; ++i) {
    wavelengths.push_back(2 * std::numbers::pi *
                          std::pow(theta, 2.0 * static_cast<double>(i) / static_cast<double>(rotary)));
  }
  const double factor = *std::max_element(factors.begin(), factors.end());
  const auto fits = [&](double low, double high, double original) {
    for (size_t i = 0; i < factors.size(); ++i) {
      if (std::fabs(llama3_factor(wavelengths[i], factor, low, high, original) / factors[i] - 1) > 1e-4) return false;
    }
    return true;
  };
  const auto answer = [&](double low, double high, double original) {
    return json{{"rope_type", "llama3"},
                {"factor", factor},
                {"low_freq_factor", low},
                {"high_freq_factor", high},
                {"original_max_position_embeddings", static_cast<int64_t>(std::llround(original))}};
  };
  if (fits(1, 4, 8192)) return answer(1, 4, 8192);
  // smooth_i = original / ((high - low) wavelength_i) - low / (high - low)
  std::vector<std::pair<double, double>> middle;
  for (size_t i = 0; i < factors.size(); ++i) {
    if (factors[i] > 1 && factors[i] < factor)
      middle.emplace_back(1 / wavelengths[i], (1 / static_cast<double>(factors[i]) - 1 / factor) / (1 - 1 / factor));
  }
  if (middle.size() >= 2) {
    const double slope = (middle.front().second - middle.back().second) / (middle.front().first - middle.back().first);
    const double offset = slope * middle.front().first - middle.front().second;  // low / (high - low)
    if (offset > 0) {
      // Only the ratios to `original` matter: low is taken as 1.
      const double high = (1 + offset) / offset;
      const double original = std::round(slope / offset);
      if (original >= 1 && original <= 2147483647.0 && fits(1, high, original)) return answer(1, high, original);
    }
  }
  // As above, low is 1: (low, high, original) and (1, high / low, original / low) are the same.
  for (const double high : {4.0, 2.0, 8.0, 3.0, 16.0}) {
    for (double original = 1; original <= 1 << 20; original *= 2) {
      if (fits(1, high, original)) return answer(1, high, original);
    }
  }
  throw UnsupportedError(
      fmt::format("{}: rope_freqs.weight: these frequency factors are not those of llama3 scaling", file.path()));
}

// Whether the model has biases on these linears: all of them are there, or one holds more than zeros. Writers leave
// zeros behind on single linears.
bool has_biases(const GgufSet& file, int64_t layers, const std::vector<std::string>& linears) {
  int64_t found = 0;
  for (const GgufTensor& t : file.tensors()) {
    const int64_t layer = layer_behind(t.name, "blk.");
    if (layer < 0 || layer >= layers || !t.name.ends_with(".bias")) continue;
    const auto of_this = [&](const std::string& l) { return t.name == fmt::format("blk.{}.{}.bias", layer, l); };
    if (std::none_of(linears.begin(), linears.end(), of_this)) continue;
    ++found;
    if (t.shape.size() != 1 || !ggml_type_info(t.type).can_dequantize) continue;
    if (t.elements() > kLongestBias) return true;  // check() compares its shape with the linear's
    std::vector<float> values(static_cast<size_t>(t.elements()));
    dequantize_rows(t, 0, 1, values.data());
    if (std::any_of(values.begin(), values.end(), [](float v) { return v != 0; })) return true;
  }
  return found == layers * static_cast<int64_t>(linears.size());
}

constexpr std::pair<std::string_view, std::string_view> kKeys[] = {
    {"hidden_size", "embedding_length"},
    {"intermediate_size", "feed_forward_length"},
    {"num_hidden_layers", "block_count"},
    {"num_attention_heads", "attention.head_count"},
    {"num_key_value_heads", "attention.head_count_kv"},
    {"head_dim", "attention.key_length"},
    {"max_position_embeddings", "context_length"},
    {"rms_norm_eps", "attention.layer_norm_rms_epsilon"},
    {"rope_theta", "rope.freq_base"},
    {"partial_rotary_factor", "rope.dimension_count"},
    {"sliding_window", "attention.sliding_window"},
    {"rope_scaling.rope_type", "rope.scaling.type"},
    {"rope_scaling.factor", "rope.scaling.factor"},
    {"rope_scaling.attention_factor", "rope.scaling.attn_factor"},
    {"rope_scaling.beta_fast", "rope.scaling.yarn_beta_fast"},
    {"rope_scaling.beta_slow", "rope.scaling.yarn_beta_slow"},
    {"rope_scaling.original_max_position_embeddings", "rope.scaling.original_context_length"},
    {"original_max_position_embeddings", "rope.scaling.original_context_length"},
    {"final_logit_softcapping", "final_logit_softcapping"},
    {"attn_logit_softcapping", "attn_logit_softcapping"},
};
// Those that do not begin with the architecture.
constexpr std::pair<std::string_view, std::string_view> kOthers[] = {
    {"model_type", "general.architecture"},
    {"vocab_size", "the rows of token_embd.weight"},
    {"bos_token_id", "tokenizer.ggml.bos_token_id"},
    {"eos_token_id", "tokenizer.ggml.eos_token_id"},
    {"pad_token_id", "tokenizer.ggml.padding_token_id"},
    {"rope_scaling.short_factor", "rope_factors_short.weight"},
    {"rope_scaling.long_factor", "rope_factors_long.weight"},
};

// The keys of the file's architecture, "llama.block_count".
class Keys {
 public:
  Keys(const GgufSet& file, const std::string& architecture) : file_(file), architecture_(architecture) {}
  const GgufMetadata& metadata() const { return file_.metadata(); }
  std::string operator()(const char* name) const { return architecture_ + "." + name; }
  bool has(const char* name) const { return metadata().contains((*this)(name)); }
  int64_t integer(const char* name) const {
    const uint64_t n = metadata().get_u64((*this)(name));
    if (n == 0 || n > (uint64_t{1} << 31))
      throw FormatError(
          fmt::format("{}: {}: expected a positive 31-bit integer, found {}", file_.path(), (*this)(name), n));
    return static_cast<int64_t>(n);
  }

 private:
  const GgufSet& file_;
  const std::string& architecture_;
};

// Heads and their dimensions. c has the hidden size. Returns the dimensions of a head.
int64_t set_heads(const GgufSet& file, const Keys& key, json& c) {
  const int64_t heads = key.integer("attention.head_count");
  c["num_attention_heads"] = heads;
  c["num_key_value_heads"] = key.has("attention.head_count_kv") ? key.integer("attention.head_count_kv") : heads;
  const int64_t head_dim =
      key.has("attention.key_length") ? key.integer("attention.key_length") : c["hidden_size"].get<int64_t>() / heads;
  if (head_dim < 2 || head_dim % 2 != 0) {
    throw FormatError(
        fmt::format("{}: {}; convert the model anew", file.path(),
                    key.has("attention.key_length")
                        ? fmt::format("{}: expected an even number of dimensions of a head, found {}",
                                      key("attention.key_length"), head_dim)
                        : fmt::format("{} {} over {} {}: expected an even number of dimensions of a head, found {}",
                                      key("embedding_length"), c["hidden_size"].get<int64_t>(),
                                      key("attention.head_count"), heads, head_dim)));
  }
  c["head_dim"] = head_dim;
  if (key.has("attention.value_length") && key.integer("attention.value_length") != head_dim) {
    throw UnsupportedError(fmt::format("{}: keys of {} and values of {} are not supported", file.path(), head_dim,
                                       counted(key.integer("attention.value_length"), "dimension")));
  }
  return head_dim;
}

// The dimensions of a head that turn.
int64_t set_turning(const GgufSet& file, const Keys& key, int64_t head_dim, json& c) {
  const GgufMetadata& m = file.metadata();
  const auto rotary = m.find_u64(key("rope.dimension_count"));
  if (rotary && (*rotary < 2 || *rotary % 2 != 0)) {
    throw FormatError(
        fmt::format("{}: {}: expected an even number of dimensions from 2, found {}; convert the model anew",
                    file.path(), key("rope.dimension_count"), *rotary));
  }
  const int64_t turning =
      rotary ? static_cast<int64_t>(std::min<uint64_t>(*rotary, static_cast<uint64_t>(head_dim))) : head_dim;
  if (turning < head_dim) c["partial_rotary_factor"] = static_cast<double>(turning) / static_cast<double>(head_dim);
  return turning;
}

// The type of the rope's scaling, as the file has it or as llama.cpp takes it; "none".
std::string scaling_type(const GgufSet& file, const Keys& key, bool longrope, std::vector<std::string>& warnings) {
  const GgufMetadata& m = file.metadata();
  std::string scaling = m.find_string(key("rope.scaling.type")).value_or("none");
  // Files of 2023 have only the factor, under this name.
  const auto old_factor = m.find_f64(key("rope.scale_linear"));
  const auto new_factor = m.find_f64(key("rope.scaling.factor"));
  // Read as rope_scaling.factor below, whose range this is.
  if (old_factor && !(*old_factor >= 1e-6 && *old_factor <= 1e6)) {
    throw FormatError(fmt::format("{}: {}: expected a number from 1e-06 to 1e+06, found {}; convert the model anew",
                                  file.path(), key("rope.scale_linear"), *old_factor));
  }
  const bool scales =
      (new_factor && *new_factor != 1 && *new_factor != 0) || (!new_factor && old_factor && *old_factor != 1);
  // llama.cpp takes a factor without a type for linear scaling.
  if (!m.contains(key("rope.scaling.type")) && scales) {
    scaling = "linear";
    if (!longrope) {
      warnings.push_back(
          fmt::format("{}: {} is missing beside a factor of {}; linear scaling is taken, as llama.cpp does",
                      file.path(), key("rope.scaling.type"), new_factor ? *new_factor : *old_factor));
    }
  } else if (scaling == "none" && old_factor && *old_factor != 1) {
    scaling = "linear";
  }
  return scaling;
}

json longrope_scaling(const GgufSet& file, const Keys& key, int64_t turning, json& c) {
  const GgufMetadata& m = file.metadata();
  json rope = {{"rope_type", "longrope"},
               {"short_factor", rope_factors(file, "rope_factors_short.weight", turning)},
               {"long_factor", rope_factors(file, "rope_factors_long.weight", turning)}};
  if (const auto x = m.find_f64(key("rope.scaling.attn_factor"))) rope["attention_factor"] = short_decimal(*x);
  if (const auto original = m.find_u64(key("rope.scaling.original_context_length"))) {
    rope["original_max_position_embeddings"] = *original;
    c["original_max_position_embeddings"] = *original;
  }
  return rope;
}

json linear_or_yarn(const GgufSet& file, const Keys& key, const std::string& scaling) {
  const GgufMetadata& m = file.metadata();
  const auto old_factor = m.find_f64(key("rope.scale_linear"));
  json rope = {{"rope_type", scaling},
               {"factor", short_decimal(m.contains(key("rope.scaling.factor")) || !old_factor
                                            ? m.get_f64(key("rope.scaling.factor"))
                                            : *old_factor)}};
  for (const auto& [from, to] :
       {std::pair{"rope.scaling.yarn_beta_fast", "beta_fast"}, {"rope.scaling.yarn_beta_slow", "beta_slow"}}) {
    if (const auto x = m.find_f64(key(from))) rope[to] = short_decimal(*x);
  }
  // What these do differs between llama.cpp's versions; 1 and 0 are what doing nothing is.
  for (const auto& [name, neutral] : {std::pair{"rope.scaling.attn_factor", 1.0},
                                      {"rope.scaling.yarn_attn_factor", 1.0},
                                      {"rope.scaling.yarn_ext_factor", 1.0},
                                      {"rope.scaling.yarn_log_multiplier", 0.0}}) {
    const auto x = m.find_f64(key(name));
    if (x && *x != neutral)
      throw UnsupportedError(
          fmt::format("{}: {} {} is not supported; supported is {}", file.path(), key(name), *x, neutral));
  }
  if (const auto original = m.find_u64(key("rope.scaling.original_context_length")))
    rope["original_max_position_embeddings"] = *original;
  return rope;
}

// llama3 scaling apart, which is a tensor of its own.
void set_scaling(const GgufSet& file, const Keys& key, int64_t turning, std::vector<std::string>& warnings, json& c) {
  const bool longrope =
      file.find("rope_factors_long.weight") != nullptr || file.find("rope_factors_short.weight") != nullptr;
  const std::string scaling = scaling_type(file, key, longrope, warnings);
  if (longrope) {
    c["rope_scaling"] = longrope_scaling(file, key, turning, c);
  } else if (scaling == "linear" || scaling == "yarn") {
    c["rope_scaling"] = linear_or_yarn(file, key, scaling);
  } else if (scaling == "longrope" || scaling == "su") {
    throw FormatError(
        fmt::format("{}: {} is {}, but the tensors rope_factors_long.weight and rope_factors_short.weight "
                    "that it needs are missing; convert the model anew",
                    file.path(), key("rope.scaling.type"), shown(scaling)));
  } else if (scaling != "none" && scaling != "") {
    throw UnsupportedError(fmt::format("{}: {} {} is not supported; supported are none, linear, yarn and longrope",
                                       file.path(), key("rope.scaling.type"), shown(scaling)));
  }
}

}  // namespace

std::string gguf_key(const std::string& key, const std::string& architecture) {
  for (const auto& [name, own] : kKeys) {
    if (name == key) return fmt::format("{}.{}", architecture, own);
  }
  for (const auto& [name, own] : kOthers) {
    if (name == key) return std::string(own);
  }
  return key;
}

std::string gguf_keys_in(const std::string& message, const std::string& architecture) {
  // The file's own name comes first and stays.
  const size_t start = std::min(message.find(": "), message.size());
  std::string out = message.substr(0, start);
  const auto in_key = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; };
  for (size_t at = start; at < message.size();) {
    size_t end = at;
    while (end < message.size() && (in_key(message[end]) || (message[end] == '.' && end > at &&
                                                             end + 1 < message.size() && in_key(message[end + 1]))))
      ++end;
    if (end == at) {
      out += message[at++];
    } else {
      out += gguf_key(message.substr(at, end - at), architecture);
      at = end;
    }
  }
  return out;
}

json gguf_config(const GgufSet& file, const Family& family, const std::string& architecture,
                 std::vector<std::string>& warnings) {
  const GgufMetadata& m = file.metadata();
  const Keys key(file, architecture);
  json c;
  c["model_type"] = family.model_types.front();
  c["architectures"] = {family.architectures.front()};
  c["hidden_size"] = key.integer("embedding_length");
  c["intermediate_size"] = key.integer("feed_forward_length");
  c["num_hidden_layers"] = key.integer("block_count");
  const int64_t head_dim = set_heads(file, key, c);
  c["max_position_embeddings"] = key.integer("context_length");
  c["rms_norm_eps"] = short_decimal(m.get_f64(key("attention.layer_norm_rms_epsilon")));
  const GgufTensor* embedding = file.find("token_embd.weight");
  if (embedding == nullptr || embedding->shape.size() != 2)
    throw FormatError(fmt::format("{}: tensor token_embd.weight: expected two dimensions, found {}", file.path(),
                                  embedding == nullptr ? "no such tensor" : shape_string(embedding->shape)));
  c["vocab_size"] = embedding->shape[0];
  c["tie_word_embeddings"] = file.find("output.weight") == nullptr;
  c["hidden_act"] = "silu";
  c["attention_bias"] = has_biases(file, c["num_hidden_layers"], {"attn_q", "attn_k", "attn_v", "attn_output"});
  c["mlp_bias"] = has_biases(file, c["num_hidden_layers"], {"ffn_gate", "ffn_up", "ffn_down"});
  const double theta = short_decimal(m.find_f64(key("rope.freq_base")).value_or(10000));
  c["rope_theta"] = theta;
  const int64_t turning = set_turning(file, key, head_dim, c);
  set_scaling(file, key, turning, warnings, c);
  if (const GgufTensor* factors = file.find("rope_freqs.weight"))
    c["rope_scaling"] = llama3_scaling(file, *factors, theta, turning);
  for (const auto& [from, to] : {std::pair{"tokenizer.ggml.bos_token_id", "bos_token_id"},
                                 {"tokenizer.ggml.eos_token_id", "eos_token_id"},
                                 {"tokenizer.ggml.padding_token_id", "pad_token_id"}}) {
    if (const auto id = m.find_u64(from)) c[to] = *id;
  }
  c["torch_dtype"] = embedding->type == GgmlType::kF32    ? "float32"
                     : embedding->type == GgmlType::kBF16 ? "bfloat16"
                                                          : "float16";
  if (family.configure_gguf) family.configure_gguf(m, c);
  return c;
}

}  // namespace metal_marlin

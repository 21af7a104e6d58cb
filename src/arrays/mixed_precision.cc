#include <fmt/format.h>
#include <metal_marlin/error.h>
#include <metal_marlin/gptq.h>
#include <metal_marlin/mixed_precision.h>
#include <metal_marlin/mr_gptq.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "arrays/array_input.h"
#include "arrays/hessian.h"
#include "core/border.h"
#include "core/half.h"
#include "core/threads.h"
#include "mixed/knapsack.h"
#include "quantize/errors.h"

namespace metal_marlin {
namespace {

struct Known {
  Precision precision;
  const char* name;
  int bits;
};
constexpr std::array<Known, 8> kPrecisions = {{{Precision::kFP16, "fp16", 16},
                                               {Precision::kBF16, "bf16", 16},
                                               {Precision::kFP4, "fp4", 4},
                                               {Precision::kNF4, "nf4", 4},
                                               {Precision::kINT8, "int8", 8},
                                               {Precision::kINT4, "int4", 4},
                                               {Precision::kINT3, "int3", 3},
                                               {Precision::kINT2, "int2", 2}}};

const Known& known(Precision precision) noexcept {
  return *std::find_if(kPrecisions.begin(), kPrecisions.end(),
                       [&](const Known& k) { return k.precision == precision; });
}

constexpr std::array<std::pair<int, Precision>, 5> kIntegers = {{{2, Precision::kINT2},
                                                                 {3, Precision::kINT3},
                                                                 {4, Precision::kINT4},
                                                                 {8, Precision::kINT8},
                                                                 {16, Precision::kBF16}}};

std::vector<std::string> parts_of(const std::string& name) {
  std::vector<std::string> parts(1);
  for (const char c : name) {
    if (c == '.') {
      parts.emplace_back();
    } else {
      parts.back() += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    }
  }
  if (parts.size() > 1 && (parts.back() == "weight" || parts.back() == "bias")) parts.pop_back();
  return parts;
}

bool one_of(const std::string& part, std::initializer_list<const char*> names) {
  return std::any_of(names.begin(), names.end(), [&](const char* n) { return part == n; });
}

// The costs of a layer that are known, as options of the choice.
struct LayerOptions {
  std::vector<size_t> costs;  // index into LayerSensitivity::costs
  std::vector<double> bits;   // of all weights of the layer
  KnapsackItem item;          // the costs of its options are not set yet
};

LayerOptions options_of(const LayerSensitivity& layer, CostMeasure measure) {
  if (layer.weights < 1) {
    throw ArgumentError("profile", fmt::format("profile: expected the number of weights of layer \"{}\", found {}",
                                               layer.name, layer.weights));
  }
  LayerOptions out;
  for (size_t i = 0; i < layer.costs.size(); ++i) {
    const PrecisionCost& c = layer.costs[i];
    const double value = (measure == CostMeasure::kKl ? c.kl : c.output_error).value_or(-1);
    const double loss = measure == CostMeasure::kKl ? value : value * value;
    if (!(value >= 0 && std::isfinite(loss))) continue;
    out.costs.push_back(i);
    out.bits.push_back(bits_per_weight(c.config, layer.in_features) * static_cast<double>(layer.weights));
    out.item.options.push_back({0, loss});
  }
  if (out.costs.empty()) {
    throw ArgumentError("profile",
                        fmt::format("profile: expected costs with {} of layer \"{}\", found none",
                                    measure == CostMeasure::kKl ? "a KL divergence" : "an output error", layer.name));
  }
  return out;
}

// Bits as integers. A group's share of its scale may be a fraction of a bit, so the unit is 2^-50 of all bits.
class BitUnits {
 public:
  explicit BitUnits(double all_bits) { std::frexp(all_bits, &exponent_); }
  uint64_t operator()(double bits) const { return static_cast<uint64_t>(std::ldexp(bits, 50 - exponent_)); }

 private:
  int exponent_ = 0;
};

}  // namespace

const char* precision_name(Precision precision) noexcept {
  return known(precision).name;
}
int precision_bits(Precision precision) noexcept {
  return known(precision).bits;
}

Precision parse_precision(const std::string& name) try {
  for (const Known& k : kPrecisions) {
    if (name == k.name) return k.precision;
  }
  throw ArgumentError(
      "precision",
      fmt::format("precision: expected fp16, bf16, fp4, nf4, int8, int4, int3 or int2, found \"{}\"", name));
} catch (...) {
  rethrow_as_error("parse_precision");
}

double bits_per_weight(const LayerQuantConfig& config, int64_t in_features) try {
  const int bits = precision_bits(config.precision);
  if (bits == 16) return 16;
  if (config.group_size < 1 && !(config.group_size == -1 && in_features > 0)) {
    throw ArgumentError(
        "group_size",
        fmt::format("group_size: expected at least 1, or -1 with known in_features, found {}", config.group_size));
  }
  const bool table = config.precision == Precision::kFP4 || config.precision == Precision::kNF4;
  const int64_t group = config.group_size == -1 ? in_features : config.group_size;
  return bits + (16.0 + (table || config.symmetric ? 0 : bits)) / static_cast<double>(group);
} catch (...) {
  rethrow_as_error("bits_per_weight");
}

Array quantize_values(const ArrayView& W, const LayerQuantConfig& config, const std::optional<ArrayView>& H,
                      const Observer& observer) try {
  const ThreadCount thread_count;
  switch (config.precision) {
    case Precision::kFP16:
    case Precision::kBF16: {
      const Matrix weight = load_weight(W, "W");
      Array out(ElementType::kF32, {weight.rows(), weight.cols()});
      for (int64_t i = 0; i < weight.size(); ++i) {
        const float w = weight.data()[i];
        out.as<float>()[i] =
            config.precision == Precision::kFP16 ? f16_to_f32(f32_to_f16(w)) : bf16_to_f32(f32_to_bf16(w));
        if (!std::isfinite(out.as<float>()[i])) {
          throw NumericError(
              fmt::format("W: expected values that {} can hold, found {}", precision_name(config.precision), w));
        }
      }
      return out;
    }
    case Precision::kFP4:
    case Precision::kNF4: {
      const auto format = config.precision == Precision::kFP4 ? QuantizationFormat::kFP4 : QuantizationFormat::kNF4;
      const MRGPTQResult r = MRGPTQQuantizer(4, format, config.group_size, false).quantize_layer(W, H, {}, observer);
      return mr_gptq_dequantize(r.packed.view(), r.scales.view(), format, r.in_features, r.group_size, 0);
    }
    default:
      break;
  }
  const int bits = precision_bits(config.precision);
  if (!H) return quantize_rtn(W, bits, config.group_size, config.symmetric).Q;
  return quantize_layer_gptq(W, *H, bits, config.group_size, config.symmetric, true, 0.01, observer).Q;
} catch (...) {
  rethrow_as_error("quantize_values");
}

LayerSensitivity analyze_layer_sensitivity(const ArrayView& W, const ArrayView& H, const std::string& name,
                                           int64_t group_size, const Observer& observer) try {
  const ThreadCount thread_count;
  const Matrix weight = load_weight(W, "W");
  const Matrix hessian = load_hessian(H, weight.cols(), "H");
  LayerSensitivity out;
  out.name = name;
  out.weights = weight.size();
  out.in_features = weight.cols();
  for (int64_t i = 0; i < hessian.rows(); ++i) out.hessian_trace += hessian(i, i);
  const auto count = static_cast<double>(weight.size());
  double mean = 0;
  for (const float w : weight.values()) mean += w / count;
  for (const float w : weight.values()) out.weight_variance += (w - mean) * (w - mean) / count;
  const double limit = 3 * std::sqrt(out.weight_variance);
  for (const float w : weight.values()) out.outlier_ratio += std::fabs(w - mean) > limit ? 1 / count : 0;
  for (const Precision p : {Precision::kINT3, Precision::kINT4, Precision::kFP4, Precision::kNF4, Precision::kINT8}) {
    PrecisionCost cost{{p, group_size, true}};
    const Array values = quantize_values(W, cost.config, H, observer);
    cost.output_error = measured(value_errors(weight, load_matrix(values, "values"), &hessian).output_error);
    out.costs.push_back(cost);
  }
  return out;
} catch (...) {
  rethrow_as_error("analyze_layer_sensitivity");
}

std::vector<LayerSensitivity> sensitivity_profile(const SensitivityRecord& sensitivity) try {
  std::vector<LayerSensitivity> profile;
  for (const SensitivityItem& item : sensitivity.items) {
    LayerSensitivity s;
    s.name = fmt::format("layers.{}.{}", item.layer, item.tap);
    s.linears = item.linears;
    s.weights = item.weights;
    for (const GridRecord& option : item.options) {
      const auto known_bits =
          std::find_if(kIntegers.begin(), kIntegers.end(), [&](const auto& i) { return i.first == option.bits; });
      if (known_bits == kIntegers.end())
        throw FormatError(fmt::format("sensitivity: bits: expected 2, 3, 4, 8 or 16, found {}", option.bits));
      if (option.bits < 16 && option.group_size < 1 && option.group_size != -1) {
        throw FormatError(
            fmt::format("sensitivity: group_size: expected at least 1, or -1, found {}", option.group_size));
      }
      PrecisionCost& cost = s.costs.emplace_back();
      cost.config = {known_bits->second, option.group_size, option.symmetric};
      cost.kl = option.estimated_kl;
    }
    profile.push_back(std::move(s));
  }
  return profile;
} catch (...) {
  rethrow_as_error("sensitivity_profile");
}

std::vector<std::string> linear_bits(const std::map<std::string, LayerQuantConfig>& layers) try {
  std::vector<std::string> out;
  for (const auto& [name, config] : layers) {
    std::string pattern;
    for (const char c : name) pattern += c == '[' || c == '*' || c == '?' ? fmt::format("[{}]", c) : std::string(1, c);
    const int bits = precision_bits(config.precision);
    if (bits == 16) {
      out.push_back(pattern + "=16");
    } else if (bits != 2 && config.precision != Precision::kFP4 && config.precision != Precision::kNF4) {
      out.push_back(fmt::format("{}={}:{}", pattern, bits, config.group_size));
    } else {
      throw ArgumentError(
          "layers",
          fmt::format(
              "layers: expected int3, int4, int8, fp16 or bf16 for \"{}\", which checkpoints here can hold, found {}",
              name, precision_name(config.precision)));
    }
  }
  return out;
} catch (...) {
  rethrow_as_error("linear_bits");
}

std::string layer_role(const std::string& name) try {
  const std::vector<std::string> parts = parts_of(name);
  const std::string& last = parts.back();
  const auto any = [&](std::initializer_list<const char*> names) {
    return std::any_of(parts.begin(), parts.end(), [&](const std::string& p) { return one_of(p, names); });
  };
  if (last.find("norm") != std::string::npos) return "norms";
  if (one_of(last, {"embed_tokens", "wte", "wpe", "tok_embeddings", "token_embd", "embed_positions"}))
    return "embeddings";
  if (one_of(last, {"lm_head", "embed_out"})) return "lm_head";
  if (any({"shared_expert", "shared_experts"})) return "moe_shared_expert";
  if (any({"experts"})) return "moe_experts";
  if (any({"router"}) || one_of(last, {"gate", "shared_expert_gate"})) return "moe_router";
  if (one_of(last, {"q_proj", "k_proj", "v_proj", "qkv_proj", "c_attn", "query_key_value", "wqkv", "wq", "wk", "wv"}))
    return "attention_qkv";
  if (one_of(last, {"o_proj", "out_proj", "wo"})) return "attention_out";
  if (one_of(last, {"gate_proj", "gate_up_proj", "w1"})) return "mlp_gate";
  if (one_of(last, {"up_proj", "w3", "fc1", "c_fc"})) return "mlp_up";
  if (one_of(last, {"down_proj", "w2", "fc2"})) return "mlp_down";
  return "default";
} catch (...) {
  rethrow_as_error("layer_role");
}

const LayerQuantConfig& MixedPrecisionConfig::layer(const std::string& name) const try {
  const auto by_name = layers.find(name);
  if (by_name != layers.end()) return by_name->second;
  const std::string role = layer_role(name);
  const std::pair<const char*, const LayerQuantConfig*> roles[] = {{"embeddings", &embeddings},
                                                                   {"lm_head", &lm_head},
                                                                   {"norms", &norms},
                                                                   {"attention_qkv", &attention_qkv},
                                                                   {"attention_out", &attention_out},
                                                                   {"mlp_gate", &mlp_gate},
                                                                   {"mlp_up", &mlp_up},
                                                                   {"mlp_down", &mlp_down},
                                                                   {"moe_router", &moe_router},
                                                                   {"moe_experts", &moe_experts},
                                                                   {"moe_shared_expert", &moe_shared_expert}};
  for (const auto& [known_role, config] : roles) {
    if (role == known_role) return *config;
  }
  return otherwise;
} catch (...) {
  rethrow_as_error("layer");
}

std::vector<LayerQuantConfig> choose_precisions(std::vector<LayerSensitivity>& profile, double target_bits,
                                                CostMeasure measure) try {
  if (profile.empty()) throw ArgumentError("profile", "profile: expected at least one layer, found none");
  if (!(target_bits > 0 && std::isfinite(target_bits))) {
    throw ArgumentError("target_bits",
                        fmt::format("target_bits: expected a finite number above 0, found {}", target_bits));
  }
  std::vector<LayerOptions> layers;
  double weights = 0;
  double least = 0;
  double most = 0;
  for (const LayerSensitivity& layer : profile) {
    const LayerOptions& options = layers.emplace_back(options_of(layer, measure));
    weights += static_cast<double>(layer.weights);
    least += *std::min_element(options.bits.begin(), options.bits.end());
    most += *std::max_element(options.bits.begin(), options.bits.end());
  }
  const double allowed = target_bits * weights * (1 + 1e-12);  // sums of fractions
  if (least > allowed) {
    throw ArgumentError(
        "target_bits", fmt::format("target_bits: expected at least {:.6g}, what the cheapest precisions need, found {}",
                                   least / weights, target_bits));
  }
  const BitUnits units(most);
  std::vector<KnapsackItem> items;
  for (LayerOptions& layer : layers) {
    for (size_t i = 0; i < layer.bits.size(); ++i) layer.item.options[i].cost = units(layer.bits[i]);
    items.push_back(std::move(layer.item));
  }
  const KnapsackChoice choice = least_loss(items, units(std::min(allowed, most))).value();
  std::vector<LayerQuantConfig> chosen;
  for (size_t i = 0; i < profile.size(); ++i) {
    const LayerQuantConfig& config = profile[i].costs[layers[i].costs[choice.options[i]]].config;
    profile[i].recommended_bits = precision_bits(config.precision);
    profile[i].recommended_format = precision_name(config.precision);
    chosen.push_back(config);
  }
  return chosen;
} catch (...) {
  rethrow_as_error("choose_precisions");
}

}  // namespace metal_marlin

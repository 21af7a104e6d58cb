// GPTQ version 1 or 2 (pack/gptq.h): every float tensor in float16 (unless the plan keeps types), quantize_config.json
// beside config.json; other bits and group sizes than the plan's in "dynamic".
#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <version_text.h>
#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "families/config/config_reader.h"
#include "formats/text.h"
#include "layouts/config/gptq_settings.h"
#include "layouts/config/labels.h"
#include "layouts/config/module_pattern.h"
#include "layouts/layout.h"
#include "pack/bits/bit_runs.h"
#include "pack/gptq.h"
#include "pack/group_arrays.h"

namespace metal_marlin {

const Layout& gptq_layout();
const Layout& gptq_v2_layout();

namespace {

// Returns the name of the merged projection under which engines (vLLM, SGLang) look for this one; empty where they do
// not merge it.
std::string merged_module(const std::string& module) {
  constexpr std::pair<const char*, const char*> kMerged[] = {{"q_proj", "qkv_proj"},
                                                             {"k_proj", "qkv_proj"},
                                                             {"v_proj", "qkv_proj"},
                                                             {"gate_proj", "gate_up_proj"},
                                                             {"up_proj", "gate_up_proj"}};
  const size_t dot = module.rfind('.');
  if (dot == std::string::npos) return {};
  for (const auto& [part, merged] : kMerged) {
    if (module.compare(dot + 1, std::string::npos, part) == 0)
      return fmt::format("{}.{}", module.substr(0, dot), merged);
  }
  return {};
}

// GPTQModel's "dynamic": the settings of single modules that differ from the rest, by patterns of their names.
class Dynamic {
 public:
  // sign "-:": not quantized; "+:": with these settings; "": as the rest.
  void add(const std::string& sign, const std::string& module, const nlohmann::json& settings) {
    if (!sign.empty()) rules_[sign + exact_expression(module)] = settings;
    if (const std::string merged = merged_module(module); !merged.empty()) merged_[merged].emplace_back(sign, settings);
  }
  // Adds rules for merged modules whose parts are alike.
  nlohmann::json rules() const {
    nlohmann::json out = rules_;
    for (const auto& [name, parts] : merged_) {
      const auto& [sign, settings] = parts.front();
      const bool alike = std::all_of(parts.begin(), parts.end(), [&](const auto& p) { return p == parts.front(); });
      if (alike && !sign.empty()) out[sign + exact_expression(name)] = settings;
    }
    return out;
  }

 private:
  nlohmann::json rules_ = nlohmann::json::object();
  std::map<std::string, std::vector<std::pair<std::string, nlohmann::json>>> merged_;
};

class GptqLayout : public Layout {
 public:
  explicit GptqLayout(GptqVersion version) : version_(version) {}

  const char* name() const noexcept override { return v1() ? "gptq" : "gptq_v2"; }
  CardWords card_words(const LayoutPlan& plan) const override {
    if (v1()) {
      return {.tag = "gptq",
              .text = "GPTQ (version 1)",
              .transformers = true,
              .packages = "gptqmodel optimum",
              .servers = true};
    }
    return {.tag = "gptq",
            .text = "GPTQ (version 2)",
            .transformers = true,
            .packages = "gptqmodel optimum",
            .otherwise = std::string("Readers of GPTQ that do not know version 2 of the format take every zero for one "
                                     "too large: `metal-marlin convert MODEL -o OUT --to gptq` writes version 1") +
                         (plan.symmetric ? "." : " for them, unless a zero is 0.")};
  }

  std::span<const int> widths() const noexcept override { return gptq_widths(version_); }
  std::string refusal(int64_t out_features, int64_t in_features, int64_t, int bits) const override {
    // 8 is required even where fewer would do, because the readers' kernels work on eight channels.
    const int64_t run = std::max<int64_t>(8, run_codes(bits));
    if (in_features % run != 0) return fmt::format("in_features {} is not a multiple of {}", in_features, run);
    if (out_features % run != 0) return fmt::format("out_features {} is not a multiple of {}", out_features, run);
    return {};
  }
  int64_t least_group() const noexcept override { return 32; }
  int least_zero() const noexcept override { return v1() ? 1 : 0; }
  bool holds_act_order() const noexcept override { return true; }

  std::span<const PartNames> part_names() const noexcept override {
    static constexpr PartNames kNames[] = {{".qweight", ".scales", ".qzeros", ".g_idx", ChannelPart::kGroup}};
    return kNames;
  }
  std::vector<TensorInfo> parts(const QuantizedLinear& l) const override {
    const int64_t groups = (l.in_features + l.group_size - 1) / l.group_size;
    return {{"qweight", DType::kI32, {l.in_features / run_codes(l.bits) * run_words(l.bits), l.out_features}},
            {"qzeros", DType::kI32, {groups, l.out_features / run_codes(l.bits) * run_words(l.bits)}},
            {"scales", DType::kF16, {groups, l.out_features}},
            {"g_idx", DType::kI32, {l.in_features}}};
  }
  PackedTensor pack(const QuantizedTensor& tensor, const std::string& name) const override {
    return pack_gptq(tensor, name, version_);
  }
  std::optional<WordOrder> word_order() const noexcept override { return WordOrder::kAlongIn; }
  QuantizedTensor unpack(const PackedLinear& l, int64_t group_size, const std::string& name,
                         Codes codes) const override {
    return unpack_gptq(*l.codes, *l.zeros, *l.scales, l.channels, group_size, version_, name, codes, l.bits);
  }

  const char* method() const noexcept override { return "gptq"; }
  bool recognises(const ConfigReader& q) const override { return gptq_variant(q) == name(); }
  std::string unknown_variant(const ConfigReader& q) const override {
    return fmt::format("GPTQ checkpoint_format {} is not supported; supported are gptq, gptq_v2, marlin",
                       shown(gptq_variant(q)));
  }
  void read_settings(const ConfigReader& q, PackedConfig& out) const override {
    check_gptq_settings(q);
    read_dynamic(q, out);
  }
  // By the words of a row of zeros and the outputs of the scales.
  void describe(const PackedConfig& config, const std::string&, const std::string& name,
                PackedLinear& linear) const override {
    linear.bits = config.bits_by_shape ? bits_by_shape(linear, name) : config.bits;
  }
  void settle_labels(PackedConfig& packed, nlohmann::json& config, const std::vector<NamedLinear>& linears,
                     const std::string& path, std::vector<std::string>& warnings) const override {
    const nlohmann::json settings = config["quantization_config"];
    const ConfigReader q(settings, path);
    settle_order(q, linears, path, warnings);
    const auto symmetric = q.find_bool("sym");
    const Layout& other = v1() ? gptq_v2_layout() : gptq_layout();
    const ZeroLabel label{.stored_less = v1() ? 1 : 0,
                          .stated = symmetric.has_value(),
                          .says = symmetric ? "sym: true" : "nothing of sym, which means true",
                          .other = &other};
    if (symmetric.value_or(true)) {
      settle_version(packed, config, label, linears, path, warnings);
    } else {
      warn_of_version(packed, label, linears, path, warnings);
    }
  }

  DType kept_type(DType stored, const LayoutPlan& plan) const override {
    return plan.keep_types ? stored : DType::kF16;
  }
  void configure(const LayoutPlan& plan, const std::vector<std::string>& kept_modules,
                 nlohmann::json& config) const override {
    if (!plan.keep_types) set_model_type_f16(config);
    // The keys that GPTQModel writes, and in "meta" who made it. "method" and "format" are its newer names of
    // "quant_method" and "checkpoint_format".
    nlohmann::json q = {{"quant_method", "gptq"},
                        {"method", "gptq"},
                        {"bits", plan.bits},
                        {"group_size", plan.group_size},
                        {"desc_act", plan.act_order},
                        {"sym", plan.symmetric},
                        {"lm_head", true},
                        {"checkpoint_format", name()},
                        {"format", name()},
                        {"pack_dtype", "int32"},
                        {"meta", {{"quantizer", {"metal-marlin:" METAL_MARLIN_VERSION}}}}};
    Dynamic dynamic;
    bool whole = true;
    for (const std::string& module : kept_modules) {
      if (module == plan.head) {
        q["lm_head"] = false;
      } else {
        dynamic.add("-:", module, nlohmann::json::object());
        whole = false;
      }
    }
    for (const QuantizedLinear& l : plan.quantized) {
      nlohmann::json own = nlohmann::json::object();
      if (l.bits != plan.bits) own["bits"] = l.bits;
      const int64_t usual = plan.group_size < 0 ? l.in_features : std::min(plan.group_size, l.in_features);
      if (l.group_size != usual) own["group_size"] = l.group_size;
      dynamic.add(own.empty() ? "" : "+:", module_name(l.name), own);
    }
    if (nlohmann::json rules = dynamic.rules(); !rules.empty()) q["dynamic"] = std::move(rules);
    if (!whole) {
      // For readers that do not know "dynamic" (transformers), this lists the quantized modules. Their full names also
      // match in readers that compare parts or ends of a name.
      nlohmann::json modules = nlohmann::json::array();
      for (const QuantizedLinear& l : plan.quantized) modules.push_back(module_name(l.name));
      q["modules_in_block_to_quantize"] = nlohmann::json::array({std::move(modules)});
    }
    config["quantization_config"] = std::move(q);
  }
  std::map<std::string, std::string> more_files(const nlohmann::json& config) const override {
    return {{"quantize_config.json", config.at("quantization_config").dump(2) + "\n"}};
  }

 protected:
  std::vector<int64_t> shape_of_codes(const PackedLinear& linear, int64_t rows, int64_t columns,
                                      const std::string&) const override {
    return {columns, rows / run_words(linear.bits) * run_codes(linear.bits)};
  }

 private:
  bool v1() const noexcept { return version_ == GptqVersion::kV1; }

  // GPTQModel's settings of single modules, by patterns: "-:" leaves them out, others override. Which modules a pattern
  // means need not be found out: the shapes of their tensors say what they have.
  void read_dynamic(const ConfigReader& q, PackedConfig& out) const {
    const auto dynamic = q.find_object("dynamic");
    if (!dynamic) return;
    for (const auto& [pattern, unused] : dynamic->object().items()) {
      if (pattern.starts_with("-:")) continue;
      const auto settings = dynamic->find_object(pattern.c_str());
      if (!settings) continue;
      const int64_t bits = settings->find_int("bits", 1, 64).value_or(out.bits);
      if (!holds_width(bits)) {
        throw UnsupportedError(fmt::format("{}: dynamic {}: {} bits are not supported; supported are {}", q.file(),
                                           shown(pattern), bits, list_widths(widths())));
      }
      out.bits_by_shape = out.bits_by_shape || bits != out.bits;
      out.by_shape = out.by_shape || settings->has("group_size");
    }
  }

  int bits_by_shape(const PackedLinear& linear, const std::string& name) const {
    const auto& zeros = linear.zeros->shape;
    const auto& scales = linear.scales->shape;
    if (zeros.size() == 2 && scales.size() == 2) {
      for (const int bits : widths()) {
        // Without products, which a hostile shape could overflow: run_codes(bits) outputs have run_words(bits) words.
        const int64_t runs = scales[1] / run_codes(bits);
        if (scales[1] > 0 && scales[1] % run_codes(bits) == 0 && zeros[1] % run_words(bits) == 0 &&
            zeros[1] / run_words(bits) == runs)
          return bits;
      }
    }
    throw FormatError(
        fmt::format("{}: expected zeros whose rows hold as many numbers of {} bits as the scales, found zeros of shape "
                    "{} and scales of shape {}",
                    name, list_widths(widths()), shape_string(zeros), shape_string(scales)));
  }

  GptqVersion version_;
};

}  // namespace

const Layout& gptq_layout() {
  static const GptqLayout kLayout(GptqVersion::kV1);
  return kLayout;
}

const Layout& gptq_v2_layout() {
  static const GptqLayout kLayout(GptqVersion::kV2);
  return kLayout;
}

}  // namespace metal_marlin

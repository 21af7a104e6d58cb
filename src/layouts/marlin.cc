// Marlin of IST-DASLab (pack/marlin.h): every float tensor in float16, symmetric.
#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "layouts/config/gptq_settings.h"
#include "layouts/config/labels.h"
#include "layouts/layout.h"
#include "pack/marlin.h"

namespace metal_marlin {

const Layout& marlin_layout();

namespace {

class MarlinLayout : public Layout {
 public:
  const char* name() const noexcept override { return "marlin"; }
  CardWords card_words(const LayoutPlan&) const override {
    return {.tag = "marlin",
            .text = "Marlin",
            .transformers = false,
            .otherwise = "The layout is that of the Marlin kernel of IST-DASLab, for programs that read it directly."};
  }

  std::span<const int> widths() const noexcept override {
    static constexpr int kWidths[] = {4};
    return kWidths;
  }
  std::string refusal_of(const Grid& grid) const override {
    if (std::string reason = Layout::refusal_of(grid); !reason.empty()) return reason;
    if (!grid.symmetric) return "has no zero points";
    if (grid.group_size != 128 && grid.group_size != -1) {
      return fmt::format("holds groups of 128 or of a whole row, not of {}", grid.group_size);
    }
    return {};
  }
  std::string refusal(int64_t out_features, int64_t in_features, int64_t group_size, int) const override {
    return marlin_refusal(out_features, in_features, group_size);
  }
  bool one_grid(bool) const noexcept override { return true; }
  bool picky() const noexcept override { return true; }

  std::span<const PartNames> part_names() const noexcept override {
    static constexpr PartNames kNames[] = {{.codes = ".B", .scales = ".s", .evidence = ".s"}};
    return kNames;
  }
  std::vector<TensorInfo> parts(const QuantizedLinear& l) const override {
    return {{"B", DType::kI32, {l.in_features / 16, 2 * l.out_features}},
            {"s", DType::kF16, {l.in_features / l.group_size, l.out_features}}};
  }
  PackedTensor pack(const QuantizedTensor& tensor, const std::string& name) const override {
    return pack_marlin(tensor, name);
  }
  std::optional<WordOrder> word_order() const noexcept override { return WordOrder::kMarlin; }
  QuantizedTensor unpack(const PackedLinear& l, int64_t group_size, const std::string& name,
                         Codes codes) const override {
    return unpack_marlin(*l.codes, *l.scales, group_size, name, codes);
  }

  const char* method() const noexcept override { return "marlin"; }
  // Earlier GPTQ tools write it under their own method.
  bool has_method(std::string_view method) const noexcept override { return method == "marlin" || method == "gptq"; }
  bool recognises(const ConfigReader& q) const override {
    return q.find_string("quant_method").value_or("") == "marlin" || gptq_variant(q) == "marlin";
  }
  void read_settings(const ConfigReader& q, PackedConfig&) const override {
    if (q.find_string("quant_method").value_or("") == "gptq") check_gptq_settings(q);
  }
  void settle_labels(PackedConfig&, nlohmann::json& config, const std::vector<NamedLinear>& linears,
                     const std::string& path, std::vector<std::string>& warnings) const override {
    const ConfigReader q(config["quantization_config"], path);
    settle_order(q, linears, path, warnings);
    const bool asymmetric = !q.find_bool("sym").value_or(true);
    if (!asymmetric && !q.find_bool("zero_point").value_or(false)) return;
    warnings.push_back(
        fmt::format("{}: the config says {}, but Marlin's layout has no zeros: the codes are read as symmetric; "
                    "correct the config, "
                    "or fetch the checkpoint again if its zeros were lost",
                    path, asymmetric ? "sym: false" : "zero_point: true"));
  }

  void check(const LayoutPlan& plan) const override { require_one_grid(plan, "a Marlin checkpoint"); }
  void configure(const LayoutPlan& plan, const std::vector<std::string>& kept_modules,
                 nlohmann::json& config) const override {
    set_model_type_f16(config);
    const bool head = std::find(kept_modules.begin(), kept_modules.end(), plan.head) == kept_modules.end();
    config["quantization_config"] = {{"quant_method", "marlin"},
                                     {"checkpoint_format", "marlin"},
                                     {"bits", 4},
                                     {"group_size", plan.group_size},
                                     {"sym", true},
                                     {"desc_act", false},
                                     {"lm_head", head},
                                     {"modules_to_not_convert", kept_modules}};
  }
  std::map<std::string, std::string> more_files(const nlohmann::json& config) const override {
    return {{"quantize_config.json", config.at("quantization_config").dump(2) + "\n"}};
  }

 protected:
  std::vector<int64_t> shape_of_codes(const PackedLinear&, int64_t rows, int64_t columns,
                                      const std::string&) const override {
    return {columns / 2, rows * 16};
  }
};

}  // namespace

const Layout& marlin_layout() {
  static const MarlinLayout kLayout;
  return kLayout;
}

}  // namespace metal_marlin

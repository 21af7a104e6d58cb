// AWQ gemm (pack/awq_gemm.h): every float tensor in float16, one group size.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "families/config/config_reader.h"
#include "formats/text.h"
#include "layouts/config/awq_settings.h"
#include "layouts/config/labels.h"
#include "layouts/layout.h"
#include "pack/awq_gemm.h"

namespace metal_marlin {

const Layout& awq_layout();

namespace {

class AwqLayout : public Layout {
 public:
  const char* name() const noexcept override { return "awq"; }
  CardWords card_words(const LayoutPlan&) const override {
    return {
        .tag = "awq", .text = "AWQ gemm", .transformers = true, .packages = "gptqmodel", .servers = true, .mlx = true};
  }

  std::span<const int> widths() const noexcept override {
    static constexpr int kWidths[] = {4};
    return kWidths;
  }
  std::string refusal(int64_t out_features, int64_t in_features, int64_t group_size, int) const override {
    if (out_features % 8 != 0) return fmt::format("out_features {} is not a multiple of 8", out_features);
    if (group_size > 0 && in_features % group_size != 0) {
      return fmt::format("in_features {} is not a multiple of the group size {}", in_features, group_size);
    }
    return {};
  }
  bool one_grid(bool) const noexcept override { return true; }
  bool readers_load_head() const noexcept override { return false; }

  std::span<const PartNames> part_names() const noexcept override {
    static constexpr PartNames kNames[] = {{".qweight", ".scales", ".qzeros"}};
    return kNames;
  }
  std::vector<TensorInfo> parts(const QuantizedLinear& l) const override {
    const int64_t groups = l.in_features / l.group_size;
    return {{"qweight", DType::kI32, {l.in_features, l.out_features / 8}},
            {"qzeros", DType::kI32, {groups, l.out_features / 8}},
            {"scales", DType::kF16, {groups, l.out_features}}};
  }
  PackedTensor pack(const QuantizedTensor& tensor, const std::string& name) const override {
    return pack_awq_gemm(tensor, name);
  }
  std::optional<WordOrder> word_order() const noexcept override { return WordOrder::kAwqGemm; }
  QuantizedTensor unpack(const PackedLinear& l, int64_t group_size, const std::string& name,
                         Codes codes) const override {
    return unpack_awq_gemm(*l.codes, *l.zeros, *l.scales, group_size, name, codes);
  }

  const char* method() const noexcept override { return "awq"; }
  bool recognises(const ConfigReader& q) const override { return awq_variant(q) == "gemm"; }
  std::string unknown_variant(const ConfigReader& q) const override {
    return fmt::format("AWQ version {} is not supported; supported are gemm, gemv, gemv_fast and llm-awq",
                       shown(awq_variant(q)));
  }
  void settle_labels(PackedConfig& packed, nlohmann::json& config, const std::vector<NamedLinear>& linears,
                     const std::string& path, std::vector<std::string>& warnings) const override {
    const ConfigReader q(config["quantization_config"], path);
    if (q.find_bool("zero_point").value_or(true)) return;
    const ZeroLabel label{.interleaved = true, .stated = true, .says = "zero_point: false"};
    settle_version(packed, config, label, linears, path, warnings);
  }

  void check(const LayoutPlan& plan) const override { require_one_grid(plan, "an AWQ checkpoint"); }
  void configure(const LayoutPlan& plan, const std::vector<std::string>& kept_modules,
                 nlohmann::json& config) const override {
    set_model_type_f16(config);
    // zero_point is true for symmetric weights too. Their zeros (8) are stored, and some engines choose their fast
    // kernels by this key.
    config["quantization_config"] = {
        {"quant_method", "awq"}, {"bits", 4},         {"group_size", plan.group_size},
        {"zero_point", true},    {"version", "gemm"}, {"modules_to_not_convert", kept_modules}};
  }

 protected:
  std::vector<int64_t> shape_of_codes(const PackedLinear&, int64_t rows, int64_t columns,
                                      const std::string&) const override {
    return {columns * 8, rows};
  }
};

}  // namespace

const Layout& awq_layout() {
  static const AwqLayout kLayout;
  return kLayout;
}

}  // namespace metal_marlin

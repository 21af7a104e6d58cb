// MLX's affine layout (pack/mlx.h): every float tensor in float16, codes of the names of weights. Linears may differ in
// bits and groups; the config has an entry for each that differs.
#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "families/config/config_reader.h"
#include "formats/text.h"
#include "layouts/config/mlx_config.h"
#include "layouts/layout.h"
#include "pack/bits/row_stream.h"
#include "pack/group_arrays.h"
#include "pack/mlx.h"

namespace metal_marlin {

const Layout& mlx_layout();

namespace {

using nlohmann::json;

constexpr int64_t kGroups[] = {32, 64, 128};

class MlxLayout : public Layout {
 public:
  const char* name() const noexcept override { return "mlx"; }
  CardWords card_words(const LayoutPlan&) const override {
    return {.tag = "mlx", .text = "MLX", .transformers = false, .mlx = true};
  }

  std::span<const int> widths() const noexcept override { return kMlxWidths; }
  bool holds_minima() const noexcept override { return true; }
  bool holds_embedding() const noexcept override { return true; }
  std::string refusal_of(const Grid& grid) const override {
    return grid.block ? Layout::refusal_of(grid) : refusal_of_width(grid.bits);
  }
  std::string refusal(int64_t, int64_t in_features, int64_t group_size, int) const override {
    if (std::find(std::begin(kGroups), std::end(kGroups), group_size) == std::end(kGroups))
      return fmt::format("it has groups of 32, 64 or 128, not of {}", group_size);
    if (in_features % group_size != 0)
      return fmt::format("in_features {} is not a multiple of the group size {}", in_features, group_size);
    return {};
  }
  std::string refusal_of_zeros(const QuantizedTensor& tensor) const override { return inexact_bias(tensor); }
  int64_t least_group() const noexcept override { return 32; }

  std::span<const PartNames> part_names() const noexcept override {
    static constexpr PartNames kNames[] = {
        {.codes = ".weight", .scales = ".scales", .zeros = ".biases", .evidence = ".biases"}};
    return kNames;
  }
  std::vector<TensorInfo> parts(const QuantizedLinear& l) const override {
    const int64_t groups = l.in_features / l.group_size;
    return {{"weight", DType::kU32, {l.out_features, row_words(l.in_features, l.bits)}},
            {"scales", DType::kF16, {l.out_features, groups}},
            {"biases", DType::kF16, {l.out_features, groups}}};
  }
  PackedTensor pack(const QuantizedTensor& tensor, const std::string& name) const override {
    return pack_mlx(tensor, name);
  }
  QuantizedTensor unpack(const PackedLinear& l, int64_t group_size, const std::string& name,
                         Codes codes) const override {
    return unpack_mlx(*l.codes, *l.scales, *l.zeros, group_size, l.bits, name, codes);
  }
  bool has_rows() const noexcept override { return true; }

  const char* method() const noexcept override { return "mlx"; }
  bool recognises(const ConfigReader&) const override { return true; }
  void read_settings(const ConfigReader& q, PackedConfig& out) const override {
    require_affine(q);
    for (const auto& [path, value] : q.object().items()) {
      if (!value.is_object()) continue;
      const ConfigReader own = *q.find_object(path.c_str());
      require_affine(own);
      const int64_t bits = own.find_int("bits", 1, 64).value_or(out.bits);
      const int64_t group = own.find_int("group_size", 1, kLargestSize).value_or(out.group_size);
      if (!holds_width(bits)) {
        throw UnsupportedError(fmt::format("{}: quantization.{}: {} bits are not supported; supported are {}", q.file(),
                                           shown(path), bits, list_widths(widths())));
      }
      out.modules[path] = {static_cast<int>(bits), group};
    }
  }
  void describe(const PackedConfig& config, const std::string& module, const std::string& name,
                PackedLinear& l) const override {
    if (l.codes->shape.size() != 2 || l.scales->shape.size() != 2) {
      throw FormatError(fmt::format("{}: expected codes and scales of two dimensions, found {} and {}", name,
                                    shape_string(l.codes->shape), shape_string(l.scales->shape)));
    }
    const int64_t words = l.codes->shape[1];
    const int64_t groups = l.scales->shape[1];
    constexpr int64_t kLargest = int64_t{1} << 31;
    const auto fits = [&](int bits, int64_t group) {
      return groups > 0 && group > 0 && groups <= kLargest / group && words == row_words(groups * group, bits);
    };
    const auto own = config.modules.find(module);
    const ModuleScheme usual = own != config.modules.end() ? own->second : ModuleScheme{config.bits, config.group_size};
    std::vector<ModuleScheme> possible;
    if (fits(usual.bits, usual.group_size)) possible.push_back(usual);
    // Older configs name no module.
    for (size_t i = 0; i < kMlxWidths.size() && (possible.empty() || possible[0].bits != usual.bits); ++i) {
      for (const int64_t group : kGroups) {
        if (fits(kMlxWidths[i], group)) possible.push_back({kMlxWidths[i], group});
      }
    }
    if (possible.empty() || (possible.size() > 1 && !fits(usual.bits, usual.group_size))) {
      throw FormatError(fmt::format(
          "{}: expected codes of {} bits in groups of {} ({}), found codes {} beside scales {}{}", name, usual.bits,
          usual.group_size, own != config.modules.end() ? "the config's entry for it" : "the config's usual ones",
          shape_string(l.codes->shape), shape_string(l.scales->shape),
          possible.empty() ? "" : ", which several bits and groups fit: the config must name the module"));
    }
    l.bits = possible.front().bits;
    l.group_size = possible.front().group_size;
  }

  bool always_has_index() const noexcept override { return true; }
  std::map<std::string, std::string> metadata(const LayoutPlan&) const override { return {{"format", "mlx"}}; }
  void configure(const LayoutPlan& plan, const std::vector<std::string>&, json& config) const override {
    set_model_type_f16(config);
    add_mlx_rope(config);
    json q = {{"group_size", plan.group_size}, {"bits", plan.bits}, {"mode", "affine"}};
    for (const QuantizedLinear& l : plan.quantized) {
      if (l.bits == plan.bits && l.group_size == plan.group_size) continue;
      q[module_name(l.name)] = {{"group_size", l.group_size}, {"bits", l.bits}, {"mode", "affine"}};
    }
    config["quantization"] = q;
    config["quantization_config"] = std::move(q);
  }

 protected:
  std::vector<int64_t> shape_of_codes(const PackedLinear& linear, int64_t rows, int64_t,
                                      const std::string&) const override {
    return {rows, linear.scales->shape[1] * linear.group_size};
  }

 private:
  static void require_affine(const ConfigReader& q) {
    const std::string mode = q.find_string("mode").value_or("affine");
    if (mode == "affine") return;
    throw UnsupportedError(fmt::format("{}: MLX mode {} is not supported; supported is affine", q.file(), shown(mode)));
  }
};

}  // namespace

const Layout& mlx_layout() {
  static const MlxLayout kLayout;
  return kLayout;
}

}  // namespace metal_marlin

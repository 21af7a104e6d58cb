// compressed-tensors (pack/compressed_tensors.h): every float tensor in float16. Linears may differ in bits and groups:
// one config group for each pair. What a linear has is read from the shapes of its tensors, which leave no doubt.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <metal_marlin/error.h>

#include <version_text.h>
#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "families/config/config_reader.h"
#include "formats/text.h"
#include "layouts/config/module_pattern.h"
#include "layouts/layout.h"
#include "pack/bits/row_stream.h"
#include "pack/compressed_tensors.h"
#include "pack/group_arrays.h"

namespace metal_marlin {

const Layout& compressed_tensors_layout();

namespace {

using nlohmann::json;

constexpr const char* kFormat = "pack-quantized";

class CompressedTensorsLayout : public Layout {
 public:
  const char* name() const noexcept override { return "compressed-tensors"; }
  CardWords card_words(const LayoutPlan&) const override {
    return {.tag = "compressed-tensors",
            .text = "compressed-tensors",
            .transformers = true,
            .packages = "compressed-tensors",
            .servers = true};
  }

  std::span<const int> widths() const noexcept override { return kCompressedTensorsWidths; }
  std::string refusal(int64_t, int64_t in_features, int64_t group_size, int) const override {
    if (group_size > 0 && in_features % group_size != 0) {
      return fmt::format("in_features {} is not a multiple of the group size {}", in_features, group_size);
    }
    return {};
  }
  // transformers (5.24, compressed-tensors 0.20.1) reads zero points where one scheme covers the whole model.
  bool one_grid(bool symmetric) const noexcept override { return !symmetric; }
  int64_t least_group() const noexcept override { return 32; }

  std::span<const PartNames> part_names() const noexcept override {
    // Scales of activations are of no use here: nothing is computed in 8 bits that they describe.
    static constexpr const char* kNotes[] = {".input_scale", ".input_zero_point", ".output_scale",
                                             ".output_zero_point"};
    static constexpr PartNames kNames[] = {{.codes = ".weight_packed",
                                            .scales = ".weight_scale",
                                            .zeros = ".weight_zero_point",
                                            .shape = ".weight_shape",
                                            .zeros_optional = true,
                                            .notes = kNotes},
                                           {.codes = ".weight",
                                            .scales = ".weight_scale",
                                            .zeros = ".weight_zero_point",
                                            .zeros_optional = true,
                                            .weight_type = DType::kI8,
                                            .floats_alike = true,
                                            .notes = kNotes}};
    return kNames;
  }
  std::vector<TensorInfo> parts(const QuantizedLinear& l) const override {
    const int64_t groups = l.in_features / l.group_size;
    std::vector<TensorInfo> out = {{"weight_packed", DType::kI32, {l.out_features, row_words(l.in_features, l.bits)}},
                                   {"weight_scale", DType::kF16, {l.out_features, groups}},
                                   {"weight_shape", DType::kI64, {2}}};
    if (!l.symmetric) out.push_back({"weight_zero_point", DType::kI32, {row_words(l.out_features, l.bits), groups}});
    return out;
  }
  PackedTensor pack(const QuantizedTensor& tensor, const std::string& name) const override {
    return pack_compressed_tensors(tensor, name);
  }
  QuantizedTensor unpack(const PackedLinear& l, int64_t group_size, const std::string& name,
                         Codes codes) const override {
    if (l.shape == nullptr) return unpack_int_quantized(*l.codes, *l.scales, l.zeros, group_size, name, codes);
    return unpack_compressed_tensors(*l.codes, *l.scales, *l.shape, l.zeros, group_size, l.bits, name, codes);
  }

  const char* method() const noexcept override { return "compressed-tensors"; }
  bool recognises(const ConfigReader&) const override { return true; }
  void read_settings(const ConfigReader& q, PackedConfig& out) const override {
    const std::string usual = format_of(q, kFormat);
    out.other_scales = true;
    refuse_sparsity(q);
    const auto groups = q.find_object("config_groups");
    if (!groups) q.fail("config_groups", "an object of groups");
    bool first = true;
    for (const auto& [key, unused] : groups->object().items()) {
      const auto group = groups->find_object(key.c_str());
      if (!group) continue;
      const std::string format = format_of(*group, usual);
      const auto weights = group->find_object("weights");
      if (!weights) group->fail("weights", "an object");
      first = false;
      if (weights->find_string("type").value_or("int") == "int") {
        read_int_weights(*weights, format, out);
      } else {
        read_float_weights(*weights, format, out);
      }
    }
    if (first) q.fail("config_groups", "at least one group");
  }
  bool has_own_sizes() const noexcept override { return true; }
  void describe(const PackedConfig& config, const std::string&, const std::string& name,
                PackedLinear& l) const override {
    if (l.shape == nullptr) return describe_bytes(name, l);
    const auto [rows, columns] = read_weight_shape(*l.shape, name);
    const auto& packed = l.codes->shape;
    const auto& scales = l.scales->shape;
    // Rows of fewer than 32 columns fit several widths: those that the config names come first.
    std::vector<int> possible = {config.bits};
    possible.insert(possible.end(), config.other_bits.begin(), config.other_bits.end());
    possible.insert(possible.end(), widths().begin(), widths().end());
    const auto bits = std::find_if(possible.begin(), possible.end(), [&](int b) {
      return b >= 2 && b <= 8 && packed.size() == 2 && packed[1] == row_words(columns, b);
    });
    if (bits == possible.end()) {
      throw FormatError(
          fmt::format("{}: expected rows of {} codes of 2 to 8 bits as a dense stream, found {}; files of 3, 5, 6 or 7 "
                      "bits made before 2026 pad each word and are not supported",
                      name, columns, shape_string(packed)));
    }
    if (scales.size() != 2 || scales[1] < 1 || columns % scales[1] != 0) {
      throw FormatError(fmt::format("{}: weight_scale: expected [{}, groups] with groups that divide {}, found {}",
                                    name, rows, columns, shape_string(scales)));
    }
    l.bits = *bits;
    l.group_size = columns / scales[1];
  }

  void check(const LayoutPlan& plan) const override {
    if (!plan.symmetric) require_one_grid(plan, "an asymmetric compressed-tensors checkpoint");
  }
  void configure(const LayoutPlan& plan, const std::vector<std::string>& kept_modules, json& config) const override {
    set_model_type_f16(config);
    json groups = json::object();
    std::map<std::pair<int, int64_t>, json> targets;  // by bits and group size
    for (const QuantizedLinear& l : plan.quantized) {
      json& modules = targets.try_emplace({l.bits, scheme_group(plan, l)}, json::array()).first->second;
      modules.push_back(exact_pattern(module_name(l.name)));
    }
    for (auto& [scheme, modules] : targets) {
      const auto& [bits, group] = scheme;
      json weights = {{"num_bits", bits},
                      {"type", "int"},
                      {"symmetric", plan.symmetric},
                      {"dynamic", false},
                      {"strategy", group < 0 ? "channel" : "group"}};
      if (group > 0) weights["group_size"] = group;
      groups[fmt::format("group_{}", groups.size())] = {
          {"targets", targets.size() == 1 ? json::array({"Linear"}) : std::move(modules)},
          {"weights", std::move(weights)},
          {"input_activations", nullptr},
          {"output_activations", nullptr},
          {"format", kFormat}};
    }
    json ignore = json::array();
    for (const std::string& module : kept_modules)
      ignore.push_back(module == plan.head ? module : exact_pattern(module));
    json q = {{"quant_method", "compressed-tensors"}, {"format", kFormat},
              {"quantization_status", "compressed"},  {"config_groups", std::move(groups)},
              {"ignore", std::move(ignore)},          {"kv_cache_scheme", nullptr},
              {"global_compression_ratio", nullptr}};
    // As stored, transformers expects zero points that are not packed; dequantized it reads them.
    if (!plan.symmetric) q["dequantize"] = true;
    config["quantization_config"] = std::move(q);
  }

 protected:
  std::vector<int64_t> shape_of_codes(const PackedLinear& linear, int64_t of_rows, int64_t of_columns,
                                      const std::string& name) const override {
    if (linear.shape == nullptr) return {of_rows, of_columns};
    const auto [rows, columns] = read_weight_shape(*linear.shape, name);
    return {rows, columns};
  }

 private:
  // The group size as the config says it: -1 for a whole row.
  static int64_t scheme_group(const LayoutPlan& plan, const QuantizedLinear& l) {
    return plan.group_size < 0 && l.group_size == l.in_features ? -1 : l.group_size;
  }
  // The format that settings, of all or of a group, name; `usual` where they do not.
  static std::string format_of(const ConfigReader& q, const std::string& usual) {
    const std::string format = q.find_string("format").value_or(usual);
    constexpr const char* kFormats[] = {kFormat, "int-quantized", "naive-quantized", "float-quantized",
                                        "mixed-precision"};
    if (std::find(std::begin(kFormats), std::end(kFormats), format) != std::end(kFormats)) return format;
    throw UnsupportedError(fmt::format("{}: compressed-tensors format {} is not supported; supported are {}", q.file(),
                                       shown(format), fmt::join(kFormats, ", ")));
  }
  static void refuse_sparsity(const ConfigReader& q) {
    const auto sparsity = q.find_object("sparsity_config");
    const std::string format = sparsity ? sparsity->find_string("format").value_or("dense") : "dense";
    if (format == "dense") return;
    throw UnsupportedError(
        fmt::format("{}: sparsity_config: format {} is not supported; supported is dense", q.file(), shown(format)));
  }
  static void read_int_weights(const ConfigReader& weights, const std::string& format, PackedConfig& out) {
    if (format == "float-quantized") {
      throw FormatError(
          fmt::format("{}: config_groups: weights of type int in the format float-quantized, which holds floats; "
                      "correct the config",
                      weights.file()));
    }
    if (weights.has("actorder") && weights.object()["actorder"] != "weight" &&
        weights.object()["actorder"] != "static") {
      throw UnsupportedError(
          fmt::format("{}: config_groups: actorder other than \"weight\" is not supported: no current reader of this "
                      "format knows it",
                      weights.file()));
    }
    const int bits = static_cast<int>(weights.get_int("num_bits", 1, 64));
    if (out.bits_stated) {
      out.other_bits.push_back(bits);
      return;
    }
    out.bits = bits;
    out.group_size = weights.find_int("group_size", -1, kLargestSize).value_or(-1);
    out.bits_stated = true;
  }
  static void read_float_weights(const ConfigReader& weights, const std::string& format, PackedConfig& out) {
    const std::string type = weights.find_string("type").value_or("");
    const int64_t bits = weights.get_int("num_bits", 1, 64);
    if (type != "float" || bits != 8 || (format != "float-quantized" && format != "naive-quantized")) {
      throw UnsupportedError(
          fmt::format("{}: config_groups: weights of type {} and {} bits in the format {} are not supported; supported "
                      "are int, and "
                      "float of 8 bits as float-quantized",
                      weights.file(), shown(type), bits, shown(format)));
    }
    out.float8 = true;
    const std::vector<int64_t> block = weights.find_ints("block_structure", 1, kLargestSize);
    if (block.empty()) return;
    if (block.size() != 2) weights.fail("block_structure", "two numbers");
    if (out.block_rows != 0 && (out.block_rows != block[0] || out.block_columns != block[1])) {
      throw UnsupportedError(
          fmt::format("{}: config_groups: weights in blocks of several sizes are not supported", weights.file()));
    }
    out.block_rows = block[0];
    out.block_columns = block[1];
  }
  // Codes that are stored as bytes, whatever bits the config says.
  static void describe_bytes(const std::string& name, PackedLinear& l) {
    const auto& codes = l.codes->shape;
    const auto& scales = l.scales->shape;
    l.bits = 8;
    l.group_size = -1;
    if (scales.size() < 2 || l.scales->elements() == 1) return;
    if (codes.size() != 2 || scales.size() != 2 || scales[1] < 1 || codes[1] % scales[1] != 0) {
      throw FormatError(fmt::format(
          "{}: weight_scale: expected one, one for each row, or groups that divide the columns of {}, found "
          "{}",
          name, shape_string(codes), shape_string(scales)));
    }
    if (scales[1] > 1) l.group_size = codes[1] / scales[1];
  }
};

}  // namespace

const Layout& compressed_tensors_layout() {
  static const CompressedTensorsLayout kLayout;
  return kLayout;
}

}  // namespace metal_marlin

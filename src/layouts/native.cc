// Native format (pack/native.h): model.awq.safetensors with "metal_marlin.*" metadata, version 1 where every linear has
// 4 bits, else 2. Other tensors keep their type. Groups and bits may differ between linears.
#include "layouts/native.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <version_text.h>
#include <algorithm>
#include <nlohmann/json.hpp>

#include "families/config/config_reader.h"
#include "formats/json/bounded_json.h"
#include "formats/json/json_fault.h"
#include "formats/text.h"
#include "layouts/config/labels.h"
#include "layouts/layout.h"
#include "pack/bits/bit_runs.h"
#include "pack/group_arrays.h"
#include "pack/native.h"

namespace metal_marlin {

const Layout& native_layout();

namespace {

using nlohmann::json;

// Version 1 has only 4 bits. Its readers must not take other codes for 4-bit codes, hence version 2.
bool is_version_1(const LayoutPlan& plan) {
  return plan.bits == 4 && std::all_of(plan.quantized.begin(), plan.quantized.end(),
                                       [](const QuantizedLinear& l) { return l.bits == 4; });
}

}  // namespace

std::vector<TensorInfo> native_parts(const QuantizedLinear& l, bool stored_scale) {
  const int64_t groups = l.in_features / l.group_size;
  std::vector<TensorInfo> parts = {
      {"weight", DType::kU32, {l.in_features / run_codes(l.bits) * run_words(l.bits), l.out_features}},
      {"weight.scales", DType::kF16, {groups, l.out_features}},
      {"weight.zeros", DType::kF16, {groups, l.out_features}}};
  if (stored_scale) parts.push_back({"weight.q_scale", DType::kF16, {l.in_features}});
  return parts;
}

std::map<std::string, std::string> native_metadata(const LayoutPlan& plan, bool stored_scales) {
  nlohmann::json tensors = nlohmann::json::object();
  for (const QuantizedLinear& linear : plan.quantized) {
    nlohmann::json entry = {{"in_features", linear.in_features}, {"out_features", linear.out_features}};
    const int64_t usual = plan.group_size < 0 ? linear.in_features : plan.group_size;
    if (linear.group_size != usual) entry["group_size"] = linear.group_size;
    if (linear.bits != plan.bits) entry["bits"] = linear.bits;
    if (!linear.folded.empty()) entry["q_scale"] = "folded:" + linear.folded;
    if (stored_scales) entry["q_scale"] = "stored";
    tensors[linear.name] = std::move(entry);
  }
  std::map<std::string, std::string> out = {{"format", "pt"},
                                            {"quant_type", fmt::format("awq_int{}", plan.bits)},
                                            {"metal_marlin.bits", std::to_string(plan.bits)},
                                            {"metal_marlin.group_size", std::to_string(plan.group_size)},
                                            {"metal_marlin.symmetric", plan.symmetric ? "true" : "false"},
                                            {"metal_marlin.q_scale_axis", "in"},
                                            {"metal_marlin.producer", "metal-marlin " METAL_MARLIN_VERSION},
                                            {"metal_marlin.tensors", tensors.dump()}};
  if (is_version_1(plan)) {
    out["metal_marlin.version"] = "1";
    out["metal_marlin.nibble_offset"] = "8";
    out["metal_marlin.zeros"] = "zero_point_minus_8";
  } else {
    out["metal_marlin.version"] = "2";
    out["metal_marlin.zeros"] = "zero_point_minus_half";
  }
  return out;
}

namespace {

int64_t checked_group_size(const json& value, const std::string& file, const std::string& key) {
  // Of the kinds apart: compared as JSON, the largest 64-bit number equals -1.
  if (value.is_number_unsigned()) {
    const auto size = value.get<uint64_t>();
    if (size > 0 && size <= static_cast<uint64_t>(kLargestSize)) return static_cast<int64_t>(size);
  } else if (value.is_number_integer() && value.get<int64_t>() == -1) {
    return -1;
  }
  throw FormatError(fmt::format(
      "{}: {}: expected a positive integer or -1, found {}", file, key,
      value.is_discarded() ? "no JSON" : escaped(value.dump(-1, ' ', false, json::error_handler_t::replace), 80)));
}

void read_other_groups(const json& tensors, const std::string& file, FileMetadata& out) {
  if (!tensors.is_object()) return;
  for (const auto& [name, entry] : tensors.items()) {
    if (!entry.is_object() || !entry.contains("group_size")) continue;
    out.other_groups[name] =
        checked_group_size(entry["group_size"], file, "metal_marlin.tensors: " + escaped(name) + ": group_size");
  }
}

FileMetadata read_native_metadata(const std::map<std::string, std::string>& metadata, const std::string& file) {
  const auto find = [&](const char* key) {
    const auto it = metadata.find(key);
    return it == metadata.end() ? std::string() : it->second;
  };
  const std::string offset = find("metal_marlin.nibble_offset");
  const std::string version = find("metal_marlin.version");
  if (version.empty() && offset.empty()) {
    throw UnsupportedError(
        fmt::format("{}: expected metal_marlin.nibble_offset in the metadata, found none: perhaps a file of the "
                    "earlier numpy implementation (codes with "
                    "offset 7), which holds single matrices that awq_load of the Python package reads",
                    file));
  }
  // Whatever is no JSON is refused below, as a value of the wrong kind.
  const auto parsed = [&](const char* key) {
    const std::string text = find(key);
    return find_json_fault(text) ? json(json::value_t::discarded) : parse_json(text, fmt::format("{}: {}", file, key));
  };
  FileMetadata out;
  if (metadata.contains("metal_marlin.group_size"))
    out.group_size = checked_group_size(parsed("metal_marlin.group_size"), file, "metal_marlin.group_size");
  if (version.empty() || version == "1") {
    if (offset != "8") {
      throw UnsupportedError(
          fmt::format("{}: metal_marlin.nibble_offset: expected 8, found {}", file, escaped(offset)));
    }
    // Version 1 needs no list of its linears.
    if (metadata.contains("metal_marlin.tensors")) read_other_groups(parsed("metal_marlin.tensors"), file, out);
    return out;
  }
  if (version != "2") {
    throw UnsupportedError(
        fmt::format("{}: metal_marlin.version: expected 1 or 2, found {}; a newer version of this program may read it",
                    file, escaped(version)));
  }
  const auto checked = [&](const std::string& key, const json& value) {
    const auto it =
        std::find_if(kNativeWidths.begin(), kNativeWidths.end(), [&](int width) { return value == json(width); });
    if (it != kNativeWidths.end()) return *it;
    throw UnsupportedError(fmt::format("{}: {}: expected {} bits, found {}", file, key, list_widths(kNativeWidths),
                                       escaped(value.dump(-1, ' ', false, json::error_handler_t::replace))));
  };
  out.bits = checked("metal_marlin.bits", parsed("metal_marlin.bits"));
  const json tensors = parsed("metal_marlin.tensors");
  if (!tensors.is_object()) {
    throw FormatError(
        fmt::format("{}: metal_marlin.tensors: expected a JSON object of the linears, found something else", file));
  }
  for (const auto& [name, entry] : tensors.items()) {
    if (!entry.is_object() || !entry.contains("bits")) continue;
    out.others[name] = checked("metal_marlin.tensors: " + escaped(name), entry["bits"]);
  }
  read_other_groups(tensors, file, out);
  return out;
}

class NativeLayout : public Layout {
 public:
  const char* name() const noexcept override { return "native"; }
  CardWords card_words(const LayoutPlan&) const override {
    return {.tag = "metal-marlin-native",
            .text = "native",
            .transformers = false,
            .otherwise =
                "Other programs do not read the native format: `metal-marlin convert MODEL -o OUT --to awq` "
                "writes one that they do."};
  }

  std::span<const int> widths() const noexcept override { return kNativeWidths; }
  std::string refusal(int64_t, int64_t in_features, int64_t group_size, int bits) const override {
    const int64_t run = run_codes(bits);
    if (in_features % run != 0) return fmt::format("in_features {} is not a multiple of {}", in_features, run);
    if (group_size > 0 && in_features % group_size != 0) {
      return fmt::format("in_features {} is not a multiple of the group size {}", in_features, group_size);
    }
    return {};
  }

  std::span<const PartNames> part_names() const noexcept override {
    static constexpr PartNames kNames[] = {
        {".weight", ".weight.scales", ".weight.zeros", ".weight.q_scale", ChannelPart::kScale, ".weight.scales"}};
    return kNames;
  }
  std::vector<TensorInfo> parts(const QuantizedLinear& linear) const override { return native_parts(linear); }
  PackedTensor pack(const QuantizedTensor& tensor, const std::string& name) const override {
    return pack_native(tensor, name);
  }
  std::optional<WordOrder> word_order() const noexcept override { return WordOrder::kAlongIn; }
  QuantizedTensor unpack(const PackedLinear& l, int64_t group_size, const std::string& name,
                         Codes codes) const override {
    return unpack_native(*l.codes, *l.scales, *l.zeros, group_size, name, codes, l.bits);
  }

  const char* method() const noexcept override { return "metal_marlin"; }
  bool recognises(const ConfigReader&) const override { return true; }
  void read_settings(const ConfigReader&, PackedConfig& out) const override {
    out.by_shape = true;  // its linears may differ
  }
  std::optional<FileMetadata> read_metadata(const std::map<std::string, std::string>& metadata,
                                            const std::string& file) const override {
    return read_native_metadata(metadata, file);
  }
  void settle_labels(PackedConfig&, json& config, const std::vector<NamedLinear>& linears, const std::string& path,
                     std::vector<std::string>& warnings) const override {
    if (!ConfigReader(config["quantization_config"], path).find_bool("zero_point").value_or(true))
      warn_of_native_zeros(linears, path, warnings);
  }

  DType kept_type(DType stored, const LayoutPlan&) const override { return stored; }
  const char* weights_suffix() const noexcept override { return ".awq.safetensors"; }
  std::map<std::string, std::string> metadata(const LayoutPlan& plan) const override { return native_metadata(plan); }
  void configure(const LayoutPlan& plan, const std::vector<std::string>& kept_modules, json& config) const override {
    config["quantization_config"] = {
        {"quant_method", "metal_marlin"}, {"bits", plan.bits},   {"group_size", plan.group_size},
        {"zero_point", !plan.symmetric},  {"version", "native"}, {"modules_to_not_convert", kept_modules}};
  }

 protected:
  std::vector<int64_t> shape_of_codes(const PackedLinear& linear, int64_t rows, int64_t columns,
                                      const std::string&) const override {
    return {columns, rows / run_words(linear.bits) * run_codes(linear.bits)};
  }
};

}  // namespace

const Layout& native_layout() {
  static const NativeLayout kLayout;
  return kLayout;
}

}  // namespace metal_marlin

#include "layouts/config/read_config.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>

#include "core/files/file_status.h"
#include "families/config/config_reader.h"
#include "formats/text.h"
#include "layouts/layouts.h"
#include "pack/group_arrays.h"
#include "pack/native.h"

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// The layout of settings with this quant_method.
const StoredLayout& layout_of(const ConfigReader& q, const std::string& method) {
  const StoredLayout* of_method = nullptr;
  for (const StoredLayout* layout : stored_layouts()) {
    if (!layout->has_method(method)) continue;
    if (layout->recognises(q)) return *layout;
    if (of_method == nullptr) of_method = layout;
  }
  if (of_method != nullptr) throw UnsupportedError(fmt::format("{}: {}", q.file(), of_method->unknown_variant(q)));
  throw UnsupportedError(
      fmt::format("{}: quant_method {} is not supported; supported are awq, gptq, marlin, metal_marlin, "
                  "compressed-tensors, fp8, hqq "
                  "and MLX",
                  q.file(), shown(method)));
}

int supported_bits(const ConfigReader& q, const StoredLayout& layout) {
  const int64_t bits = q.find_int("bits", 1, 64).value_or(q.find_int("w_bit", 1, 64).value_or(4));
  if (!layout.holds_width(bits)) {
    throw UnsupportedError(
        fmt::format("{}: {} bits are not supported; supported are {}", q.file(), bits, list_widths(layout.widths())));
  }
  return static_cast<int>(bits);
}

// Floats of 8 bits: no layout of codes.
void read_float8_settings(const ConfigReader& q, PackedConfig& out) {
  const std::string type = first_string(q, {"fmt"}, "e4m3");
  if (type != "e4m3" && type != "float8_e4m3fn") {
    throw UnsupportedError(fmt::format("{}: fmt {} of fp8 is not supported; supported is e4m3", q.file(), shown(type)));
  }
  out.float8 = true;
  out.other_scales = true;
  const std::vector<int64_t> block = q.find_ints("weight_block_size", 1, kLargestSize);
  if (block.empty()) return;
  if (block.size() != 2) q.fail("weight_block_size", "two numbers");
  out.block_rows = block[0];
  out.block_columns = block[1];
}

// AutoAWQ's own file has other names for two settings.
const json* setting_of(const json& settings, const std::string& key) {
  const std::string other = key == "bits" ? "w_bit" : key == "group_size" ? "q_group_size" : key;
  for (const std::string& name : {key, other}) {
    if (const auto it = settings.find(name); it != settings.end() && !it->is_null()) return &*it;
  }
  return nullptr;
}

std::string value_text(const json& value) {
  return escaped(value.dump(-1, ' ', false, json::error_handler_t::replace), 80);
}

void settle_names(const ConfigReader& q, const char* counts, const char* other, std::vector<std::string>& warnings) {
  if (!q.has(counts) || !q.has(other)) return;
  const json& a = q.object()[counts];
  const json& b = q.object()[other];
  if (a == b) return;
  warnings.push_back(
      fmt::format("{}: quantization_config.{} is {}, and quantization_config.{} is {}; {} counts: remove "
                  "the wrong one",
                  q.file(), counts, value_text(a), other, value_text(b), counts));
}

// The file of older tools beside settings that count.
void compare_settings(const json& settings, const std::string& path, const std::string& beside,
                      std::vector<std::string>& warnings) {
  json older;
  try {
    older = read_json_object(beside, warnings);
  } catch (const Error& e) {
    warnings.push_back(fmt::format("{}; the settings of {} count", e.what(), path));
    return;
  }
  if (!settings.is_object()) return;  // refused below
  for (const char* key : {"bits", "group_size", "quant_method", "checkpoint_format", "sym", "zero_point", "desc_act"}) {
    const json* a = setting_of(settings, key);
    const json* b = setting_of(older, key);
    if (a == nullptr || b == nullptr || *a == *b) continue;
    warnings.push_back(fmt::format(
        "{}: {} is {}, but {} in {}, which counts; engines that take the former read the model wrongly: correct the "
        "wrong one",
        beside, key, value_text(*b), value_text(*a), path));
  }
}

int64_t inferred_group_size(const PackedLinear& linear, int64_t in_features, int64_t usual) {
  if (linear.scales->shape.size() != 2 || linear.scales->shape[0] <= 0) return usual;
  const int64_t groups = linear.scales->shape[0];
  if (usual > 0 && (in_features + usual - 1) / usual == groups) return usual;
  return in_features % groups == 0 ? in_features / groups : usual;
}

}  // namespace

PackedConfig read_packed_config(json& config, const std::string& config_path, const std::string& folder,
                                std::vector<std::string>& warnings) {
  std::string path = config_path;
  const char* usual_method = "";
  const std::pair<const char*, const char*> others[] = {{"quantize_config.json", "gptq"}, {"quant_config.json", "awq"}};
  const auto is_there = [&](const auto& other) {
    return fs::exists(fs::symlink_status(fs::path(folder) / other.first));
  };
  if (const auto mlx = config.find("quantization"); mlx != config.end() && mlx->is_object()) {
    // MLX's own key counts for its readers, whatever else is there.
    json settings = *mlx;
    settings["quant_method"] = "mlx";
    config["quantization_config"] = std::move(settings);
  }
  if (!config.contains("quantization_config") || config["quantization_config"].is_null()) {
    const auto found = std::find_if(std::begin(others), std::end(others), is_there);
    if (found == std::end(others)) return {};
    path = (fs::path(folder) / found->first).string();
    usual_method = found->second;
    json beside = read_json_object(path, warnings);
    if (!beside.contains("quant_method")) beside["quant_method"] = usual_method;
    config["quantization_config"] = std::move(beside);
  }
  for (const auto& other : others) {
    const std::string beside = (fs::path(folder) / other.first).string();
    if (beside != path && is_there(other)) compare_settings(config["quantization_config"], path, beside, warnings);
  }
  const ConfigReader whole(config, path);
  const ConfigReader q = *whole.find_object("quantization_config");
  PackedConfig out;
  out.file = path;
  settle_names(q, "bits", "w_bit", warnings);
  settle_names(q, "group_size", "q_group_size", warnings);
  out.bits_stated = q.has("bits") || q.has("w_bit");
  const std::string method = q.find_string("quant_method").value_or("");
  if (method == "fp8") {
    read_float8_settings(q, out);
    return out;
  }
  out.layout = &layout_of(q, method);
  if (!out.layout->has_own_sizes()) {
    out.bits = supported_bits(q, *out.layout);
    auto group = q.find_int("group_size", -1, kLargestSize);
    if (!group) group = q.find_int("q_group_size", -1, kLargestSize);
    if (!group || *group == 0) q.fail("group_size", "a positive integer or -1");
    out.group_size = *group;
  }
  out.layout->read_settings(q, out);
  return out;
}

int64_t group_size_of(const PackedConfig& config, const PackedLinear& l, const std::string& name) {
  const int64_t usual = l.group_size != 0 ? l.group_size : config.group_size;
  return config.by_shape ? inferred_group_size(l, config.layout->logical_shape(l, name)[1], usual) : usual;
}

QuantizedTensor read_packed(const PackedConfig& config, const PackedLinear& l, const std::string& name, Codes codes) {
  return config.layout->unpack(l, group_size_of(config, l, name), name, codes);
}

std::vector<uint16_t> read_q_scale(const PackedLinear& l, int64_t in_features, const std::string& name) {
  if (l.channels == nullptr || l.names->channel_part != ChannelPart::kScale) return {};
  unpack_q_scale(*l.channels, in_features, name);
  std::vector<uint16_t> bits(static_cast<size_t>(in_features));
  std::memcpy(bits.data(), l.channels->bytes.data(), l.channels->bytes.size());
  return bits;
}

}  // namespace metal_marlin

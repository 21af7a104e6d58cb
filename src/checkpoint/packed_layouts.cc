#include "checkpoint/packed_layouts.h"

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
#include "formats/json/bounded_json.h"
#include "formats/json/json_fault.h"
#include "formats/text.h"
#include "pack/awq_gemm.h"
#include "pack/bit_runs.h"
#include "pack/gptq.h"
#include "pack/group_arrays.h"
#include "pack/marlin.h"
#include "pack/native.h"

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr PackedLayout kAwq = {"awq", ".qweight", ".scales", ".qzeros", ""};
constexpr PackedLayout kGptq = {"gptq", ".qweight", ".scales", ".qzeros", ".g_idx"};
constexpr PackedLayout kGptqV2 = {"gptq_v2", ".qweight", ".scales", ".qzeros", ".g_idx"};
constexpr PackedLayout kMarlin = {"marlin", ".B", ".s", "", ""};
constexpr PackedLayout kNative = {"native", ".weight", ".weight.scales", ".weight.zeros", ".weight.q_scale"};

// The first of these keys that is a string.
std::string first_string(const ConfigReader& config, std::initializer_list<const char*> keys, const char* otherwise) {
  for (const char* key : keys) {
    if (const auto text = config.find_string(key)) return *text;
  }
  return otherwise;
}

const PackedLayout* awq_layout(const ConfigReader& q) {
  const std::string version = first_string(q, {"version", "checkpoint_format", "format"}, "gemm");
  if (version == "gemm" || version == "GEMM") return &kAwq;
  throw UnsupportedError(
      fmt::format("{}: AWQ version {} is not supported; supported is gemm", q.file(), shown(version)));
}

// What is missing is version 1: the key came with version 2.
const PackedLayout* gptq_layout(const ConfigReader& q) {
  if (q.find_bool("is_marlin_format").value_or(false)) return &kMarlin;
  const std::string format = first_string(q, {"checkpoint_format", "format"}, "gptq");
  for (const PackedLayout* layout : {&kGptq, &kGptqV2, &kMarlin}) {
    if (format == layout->format) return layout;
  }
  throw UnsupportedError(fmt::format(
      "{}: GPTQ checkpoint_format {} is not supported; supported are gptq, gptq_v2, marlin", q.file(), shown(format)));
}

std::span<const int> widths_of(const PackedLayout* layout) {
  static constexpr int kFour[] = {4};
  if (layout == &kNative) return kNativeWidths;
  if (layout == &kGptq) return gptq_widths(GptqVersion::kV1);
  if (layout == &kGptqV2) return gptq_widths(GptqVersion::kV2);
  return kFour;
}

int supported_bits(const ConfigReader& q, const PackedLayout* layout) {
  const int64_t bits = q.find_int("bits", 1, 64).value_or(q.find_int("w_bit", 1, 64).value_or(4));
  const auto widths = widths_of(layout);
  if (std::find(widths.begin(), widths.end(), bits) == widths.end()) {
    throw UnsupportedError(
        fmt::format("{}: {} bits are not supported; supported are {}", q.file(), bits, list_widths(widths)));
  }
  return static_cast<int>(bits);
}

// GPTQModel's settings of single modules, by patterns: "-:" leaves them out, others override. Which modules a pattern
// means need not be found out: the shapes of their tensors say what they have.
void read_dynamic(const ConfigReader& q, PackedConfig& out) {
  const auto dynamic = q.find_object("dynamic");
  if (!dynamic) return;
  const auto widths = widths_of(out.layout);
  for (const auto& [pattern, unused] : dynamic->object().items()) {
    if (pattern.starts_with("-:")) continue;
    const auto settings = dynamic->find_object(pattern.c_str());
    if (!settings) continue;
    const int64_t bits = settings->find_int("bits", 1, 64).value_or(out.bits);
    if (std::find(widths.begin(), widths.end(), bits) == widths.end()) {
      throw UnsupportedError(fmt::format("{}: dynamic {}: {} bits are not supported; supported are {}", q.file(),
                                         shown(pattern), bits, list_widths(widths)));
    }
    out.bits_by_shape = out.bits_by_shape || bits != out.bits;
    out.by_shape = out.by_shape || settings->has("group_size");
  }
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
  if (method == "awq") {
    out.layout = awq_layout(q);
  } else if (method == "gptq") {
    out.layout = gptq_layout(q);
  } else if (method == "marlin") {
    out.layout = &kMarlin;
  } else if (method == "metal_marlin") {
    out.layout = &kNative;
    out.by_shape = true;  // its linears may differ
  } else {
    throw UnsupportedError(
        fmt::format("{}: quant_method {} is not supported; supported are awq (gemm), gptq, marlin and metal_marlin",
                    path, shown(method)));
  }
  out.bits = supported_bits(q, out.layout);
  auto group = q.find_int("group_size", -1, kLargestSize);
  if (!group) group = q.find_int("q_group_size", -1, kLargestSize);
  if (!group || *group == 0) q.fail("group_size", "a positive integer or -1");
  out.group_size = *group;
  if (method == "gptq") {
    if (const auto type = q.find_string("pack_dtype"); type && *type != "int32") {
      throw UnsupportedError(fmt::format("{}: pack_dtype {} is not supported; supported is int32", path, shown(*type)));
    }
    if (q.has("rotation") && q.find_string("rotation").value_or("") != "") {
      throw UnsupportedError(fmt::format("{}: rotation {} is not supported: the model computes on rotated states", path,
                                         shown(*q.find_string("rotation"))));
    }
    if (out.layout != &kMarlin) read_dynamic(q, out);
  }
  return out;
}

void use_gptq_version(PackedConfig& config, const std::string& format) {
  config.layout = format == "gptq" ? &kGptq : &kGptqV2;
  const auto widths = widths_of(config.layout);
  if (std::find(widths.begin(), widths.end(), config.bits) != widths.end()) return;
  throw UnsupportedError(
      fmt::format("{} bits are not supported in {}; supported are {}", config.bits, format, list_widths(widths)));
}

int bits_by_shape(const PackedConfig& config, const PackedLinear& linear, const std::string& name) {
  const auto& zeros = linear.zeros->shape;
  const auto& scales = linear.scales->shape;
  const auto widths = widths_of(config.layout);
  if (zeros.size() == 2 && scales.size() == 2) {
    for (const int bits : widths) {
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
                  name, list_widths(widths), shape_string(zeros), shape_string(scales)));
}

std::vector<int64_t> logical_shape(const PackedLayout& layout, const PackedLinear& linear, const std::string& name) {
  const TensorView& codes = *linear.codes;
  if (codes.shape.size() != 2) {
    throw FormatError(fmt::format("{}: expected two dimensions, found {}", name, shape_string(codes.shape)));
  }
  const int64_t rows = codes.shape[0];
  const int64_t columns = codes.shape[1];
  constexpr int64_t kLargest = int64_t{1} << 58;  // of a stored dimension: the products below fit
  if (rows < 0 || columns < 0 || rows > kLargest || columns > kLargest) {
    throw FormatError(fmt::format("{}: the shape {} is out of range", name, shape_string(codes.shape)));
  }
  if (&layout == &kAwq) return {columns * 8, rows};
  if (&layout == &kMarlin) return {columns / 2, rows * 16};
  return {columns, rows / run_words(linear.bits) * run_codes(linear.bits)};
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

void read_other_groups(const json& tensors, const std::string& file, NativeMetadata& out) {
  if (!tensors.is_object()) return;
  for (const auto& [name, entry] : tensors.items()) {
    if (!entry.is_object() || !entry.contains("group_size")) continue;
    out.other_groups[name] =
        checked_group_size(entry["group_size"], file, "metal_marlin.tensors: " + escaped(name) + ": group_size");
  }
}

}  // namespace

NativeMetadata read_native_metadata(const std::map<std::string, std::string>& metadata, const std::string& file) {
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
  NativeMetadata out;
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

int64_t group_size_of(const PackedConfig& config, const PackedLinear& l, const std::string& name) {
  const int64_t usual = l.group_size != 0 ? l.group_size : config.group_size;
  return config.by_shape ? inferred_group_size(l, logical_shape(*config.layout, l, name)[1], usual) : usual;
}

QuantizedTensor read_packed(const PackedConfig& config, const PackedLinear& l, const std::string& name, Codes codes) {
  const PackedLayout* layout = config.layout;
  const int64_t group = group_size_of(config, l, name);
  if (layout == &kAwq) return unpack_awq_gemm(*l.codes, *l.zeros, *l.scales, group, name, codes);
  if (layout == &kMarlin) return unpack_marlin(*l.codes, *l.scales, group, name, codes);
  if (layout == &kNative) return unpack_native(*l.codes, *l.scales, *l.zeros, group, name, codes, l.bits);
  const GptqVersion version = layout == &kGptq ? GptqVersion::kV1 : GptqVersion::kV2;
  return unpack_gptq(*l.codes, *l.zeros, *l.scales, l.channels, group, version, name, codes, l.bits);
}

std::vector<uint16_t> read_q_scale(const PackedConfig& config, const PackedLinear& l, int64_t in_features,
                                   const std::string& name) {
  if (config.layout != &kNative || l.channels == nullptr) return {};
  unpack_q_scale(*l.channels, in_features, name);
  std::vector<uint16_t> bits(static_cast<size_t>(in_features));
  std::memcpy(bits.data(), l.channels->bytes.data(), l.channels->bytes.size());
  return bits;
}

}  // namespace metal_marlin

#include "checkpoint/stored_entry.h"

#include <fmt/format.h>

#include <filesystem>
#include <utility>

#include "formats/text.h"
#include "layouts/config/read_config.h"
#include "layouts/stored_layout.h"

namespace metal_marlin {

namespace fs = std::filesystem;

std::string module_of(const std::string& name, std::string_view suffix) {
  return !suffix.empty() && name.ends_with(suffix) ? name.substr(0, name.size() - suffix.size()) : std::string();
}

const PartNames* names_of_codes(const PackedConfig& packed, const std::string& name, const StoredEntry& e,
                                const StoredEntries& raw) {
  if (packed.layout == nullptr) return nullptr;
  const PartNames* first = nullptr;
  for (const PartNames& parts : packed.layout->part_names()) {
    const std::string module = module_of(name, parts.codes);
    if (module.empty()) continue;
    const DType type = e.main->dtype;
    const bool has_scales = raw.count(module + parts.scales) > 0;
    // Codes may have the name of any weight.
    if (parts.codes_are_named_as_weights() && type != parts.weight_type && (!has_scales || type == DType::kF8E4M3))
      continue;
    // Of several names for its parts those that it has; else the missing ones are named by the first.
    if (has_scales && (parts.zeros_optional || *parts.zeros == '\0' || raw.count(module + parts.zeros) > 0))
      return &parts;
    if (first == nullptr) first = &parts;
  }
  return first;
}

bool is_part(const PackedConfig& packed, const std::string& name, const StoredEntries& raw) {
  if (packed.layout == nullptr) return false;
  for (const PartNames& parts : packed.layout->part_names()) {
    for (const char* suffix : {parts.scales, parts.zeros, parts.channels, parts.shape}) {
      const std::string module = module_of(name, suffix);
      if (!module.empty() && raw.count(module + parts.codes) > 0) return true;
    }
    for (const char* suffix : parts.notes) {
      const std::string module = module_of(name, suffix);
      if (!module.empty() && raw.count(module + parts.codes) > 0) return true;
    }
  }
  return false;
}

std::string set_parts(const std::string& module, const PartNames& names, const StoredEntries& raw,
                      PackedLinear& linear) {
  std::string missing;
  const auto find = [&](const char* suffix, const TensorView*& view, bool needed) {
    if (*suffix == '\0') return;
    view = part_of(raw, module + suffix);
    if (view == nullptr && needed && missing.empty()) missing = module + suffix;
  };
  find(names.scales, linear.scales, true);
  find(names.zeros, linear.zeros, !names.zeros_optional);
  find(names.channels, linear.channels, false);
  find(names.shape, linear.shape, true);
  for (const char* suffix : names.notes) linear.notes.push_back(part_of(raw, module + suffix));
  linear.names = &names;
  return missing;
}

const TensorView* part_of(const StoredEntries& raw, const std::string& name) {
  const auto it = raw.find(name);
  return it == raw.end() ? nullptr : it->second.main;
}

std::string quantized_part(const std::string& weight, const std::vector<std::unique_ptr<SafetensorsFile>>& files) {
  if (!weight.ends_with(".weight")) return {};
  const std::string module = weight.substr(0, weight.size() - std::string_view("weight").size());
  for (const auto& file : files) {
    for (const char* part : {"scales", "qzeros", "g_idx", "s", "weight.scales", "weight.zeros", "weight_scale"}) {
      if (file->find(module + part) != nullptr) return module + part;
    }
  }
  return {};
}

QuantizedTensor read_code_rows(const PackedConfig& packed, const StoredEntry& e, int64_t first, int64_t rows,
                               const std::string& name) {
  // A part of another shape stays as it is, and is refused where it is unpacked.
  const auto rows_of = [&](const TensorView& part) {
    TensorView out = part;
    if (part.shape.empty() || part.shape[0] != e.shape[0]) return out;
    const size_t bytes = part.bytes.size() / static_cast<size_t>(part.shape[0]);
    out.shape[0] = rows;
    out.bytes = part.bytes.subspan(static_cast<size_t>(first) * bytes, static_cast<size_t>(rows) * bytes);
    return out;
  };
  PackedLinear l = e.packed;
  const std::array<TensorView, 3> parts = {rows_of(*l.codes), rows_of(*l.scales), rows_of(*l.zeros)};
  l.codes = &parts[0];
  l.scales = &parts[1];
  l.zeros = &parts[2];
  return read_packed(packed, l, name, Codes::kRead);
}

std::vector<CheckpointTensor> describe(const StoredEntries& entries, const PackedConfig& packed,
                                       const std::string& format, const std::map<std::string, std::string>& reasons) {
  std::vector<CheckpointTensor> out;
  for (const auto& [name, e] : entries) {
    CheckpointTensor t;
    t.name = name;
    t.shape = e.shape;
    t.stored_as = e.plain() ? std::string(dtype_name(e.main->dtype)) : format;
    for (const TensorView* part : e.parts()) {
      if (part != nullptr) t.bytes += part->bytes.size();
    }
    t.file = fs::path(e.file->path()).filename().string();
    if (!e.plain()) {
      t.bits = e.packed.bits;
      t.group_size = group_size_of(packed, e.packed, e.file->path() + ": " + name);
    }
    if (const auto reason = reasons.find(name); reason != reasons.end()) t.reason = reason->second;
    out.push_back(std::move(t));
  }
  return out;
}

}  // namespace metal_marlin

#include "checkpoint/stored_entry.h"

#include <fmt/format.h>

#include <filesystem>
#include <utility>

#include "formats/text.h"

namespace metal_marlin {

namespace fs = std::filesystem;

std::string module_of(const std::string& name, std::string_view suffix) {
  return !suffix.empty() && name.ends_with(suffix) ? name.substr(0, name.size() - suffix.size()) : std::string();
}

bool is_codes(const PackedConfig& packed, const std::string& name, const StoredEntry& e, const StoredEntries& raw) {
  if (packed.layout == nullptr) return false;
  const std::string module = module_of(name, packed.layout->codes);
  if (module.empty()) return false;
  // The native codes have the name of any weight.
  return std::string_view(packed.layout->format) != "native" || e.main->dtype == DType::kU32 ||
         raw.count(module + packed.layout->scales) > 0;
}

bool is_part(const PackedConfig& packed, const std::string& name, const StoredEntries& raw) {
  if (packed.layout == nullptr) return false;
  for (const char* suffix : {packed.layout->scales, packed.layout->zeros, packed.layout->channels}) {
    const std::string module = module_of(name, suffix);
    if (!module.empty()) return raw.count(module + packed.layout->codes) > 0;
  }
  return false;
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

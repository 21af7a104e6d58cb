#include "layouts/config/code_names.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <string_view>

#include "formats/text.h"
#include "layouts/layouts.h"

namespace metal_marlin {
namespace {

// Names of codes, and of a tensor beside them that makes them sure; empty: the name alone does.
struct CodeName {
  std::string codes;
  std::string evidence;
  std::vector<std::string> methods;  // that have such codes
};

std::vector<CodeName> code_names() {
  std::vector<CodeName> names;
  for (const StoredLayout* layout : stored_layouts()) {
    for (const PartNames& parts : layout->part_names()) {
      if (parts.floats_alike) continue;
      const auto same = [&](const CodeName& n) { return n.codes == parts.codes && n.evidence == parts.evidence; };
      const auto it = std::find_if(names.begin(), names.end(), same);
      CodeName& name = it != names.end() ? *it : names.emplace_back(CodeName{parts.codes, parts.evidence, {}});
      const std::string method = layout->method();
      if (std::find(name.methods.begin(), name.methods.end(), method) == name.methods.end())
        name.methods.push_back(method);
    }
  }
  return names;
}

std::string without(const std::string& name, std::string_view suffix) {
  return !suffix.empty() && name.ends_with(suffix) ? name.substr(0, name.size() - suffix.size()) : std::string();
}

bool has_codes_named(const StoredLayout& layout, const std::string& codes) {
  const auto names = layout.part_names();
  return std::any_of(names.begin(), names.end(), [&](const PartNames& parts) { return codes == parts.codes; });
}

bool has_codes_of(const StoredLayout& layout, const std::string& module,
                  const std::map<std::string, std::string>& file_of) {
  const auto names = layout.part_names();
  return std::any_of(names.begin(), names.end(),
                     [&](const PartNames& parts) { return file_of.count(module + parts.codes) > 0; });
}

}  // namespace

const StoredLayout* self_described(const std::map<std::string, std::string>& file_of) {
  for (const StoredLayout* layout : stored_layouts()) {
    if (!layout->describes_itself()) continue;
    for (const auto& [name, file] : file_of) {
      if (!without(name, layout->part_names().front().codes).empty()) return layout;
    }
  }
  return nullptr;
}

void refuse_unlabelled_codes(const PackedConfig& config, const std::map<std::string, std::string>& file_of,
                             const std::string& config_path) {
  for (const CodeName& codes : code_names()) {
    const std::string methods = fmt::format("{}", fmt::join(codes.methods, " or "));
    if (config.layout != nullptr && has_codes_named(*config.layout, codes.codes)) continue;
    for (const auto& [name, file] : file_of) {
      const std::string module = without(name, codes.codes);
      if (module.empty() || (!codes.evidence.empty() && file_of.count(module + codes.evidence) == 0)) continue;
      if (config.layout == nullptr) {
        throw FormatError(fmt::format(
            "{}: tensor {}: codes are stored ({}), but {} has no quantization_config that says how to read them, and "
            "there is neither quantize_config.json nor quant_config.json beside it; copy the config from where the "
            "model was quantized or published",
            file, escaped(name), methods, config_path));
      }
      throw FormatError(fmt::format(
          "{}: tensor {}: expected codes named *{}, those of {} (quantization_config in {}), found codes of "
          "{}; correct quantization_config",
          file, escaped(name), config.layout->part_names().front().codes, config.layout->name(), config.file, methods));
    }
  }
}

std::string parts_without_codes(const PackedConfig& config, const std::map<std::string, std::string>& file_of) {
  if (config.layout == nullptr) return {};
  for (const PartNames& parts : config.layout->part_names()) {
    for (const auto& [name, file] : file_of) {
      for (const char* suffix : {parts.scales, parts.zeros}) {
        const std::string module = without(name, suffix);
        if (module.empty() || has_codes_of(*config.layout, module, file_of) || file_of.count(module + ".weight") > 0)
          continue;
        return module + parts.codes;
      }
    }
  }
  return {};
}

std::string label_without_codes(const PackedConfig& config) {
  const std::string what =
      config.layout != nullptr ? fmt::format("{}, {} bits", config.layout->name(), config.bits) : std::string("fp8");
  return fmt::format(
      "{}: says that the model is quantized ({}), but no codes are stored: the tensors count, and are read as "
      "the floats that they are; engines that go by the config do not load them: remove quantization_config, or fetch "
      "the model again if it should be quantized",
      config.file, what);
}

void compare_with_metadata(const PackedConfig& config, const std::map<const SafetensorsFile*, FileMetadata>& files,
                           std::vector<std::string>& warnings) {
  std::map<std::string, const FileMetadata*> by_path;
  for (const auto& [file, metadata] : files) by_path.emplace(file->path(), &metadata);
  for (const auto& [path, metadata] : by_path) {
    const size_t before = warnings.size();
    const auto warn = [&, &file = path](const char* key, int64_t of_config, int64_t of_file) {
      warnings.push_back(
          fmt::format("{}: quantization_config.{} is {}, but {} in the metadata of {} (metal_marlin.{}), which counts: "
                      "correct the config",
                      config.file, key, of_config, of_file, file, key));
    };
    if (config.bits_stated && config.bits != metadata->bits) warn("bits", config.bits, metadata->bits);
    if (metadata->group_size != 0 && config.group_size != metadata->group_size)
      warn("group_size", config.group_size, metadata->group_size);
    if (warnings.size() > before) return;
  }
}

}  // namespace metal_marlin

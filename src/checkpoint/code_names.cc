#include "checkpoint/code_names.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <array>
#include <string_view>

#include "formats/text.h"

namespace metal_marlin {
namespace {

// Names of codes, and of a tensor beside them that makes them sure; empty: the name alone does.
struct CodeName {
  std::string_view codes;
  std::string_view beside;
  const char* layouts;
};
constexpr std::array<CodeName, 3> kCodeNames = {
    {{".qweight", "", "gptq or awq"}, {".B", ".s", "marlin"}, {".weight", ".weight.scales", "metal_marlin"}}};

std::string without(const std::string& name, std::string_view suffix) {
  return !suffix.empty() && name.ends_with(suffix) ? name.substr(0, name.size() - suffix.size()) : std::string();
}

}  // namespace

void refuse_unlabelled_codes(const PackedConfig& config, const std::map<std::string, std::string>& file_of,
                             const std::string& config_path) {
  for (const CodeName& codes : kCodeNames) {
    if (config.layout != nullptr && config.layout->codes == codes.codes) continue;
    for (const auto& [name, file] : file_of) {
      const std::string module = without(name, codes.codes);
      if (module.empty() || (!codes.beside.empty() && file_of.count(module + std::string(codes.beside)) == 0)) continue;
      if (config.layout == nullptr) {
        throw FormatError(fmt::format(
            "{}: tensor {}: codes are stored ({}), but {} has no quantization_config that says how to read them, and "
            "there is neither quantize_config.json nor quant_config.json beside it; copy the config from where the "
            "model was quantized or published",
            file, escaped(name), codes.layouts, config_path));
      }
      throw FormatError(fmt::format(
          "{}: tensor {}: expected codes named *{}, those of {} (quantization_config in {}), found codes of "
          "{}; correct quantization_config",
          file, escaped(name), config.layout->codes, config.layout->format, config.file, codes.layouts));
    }
  }
}

std::string parts_without_codes(const PackedConfig& config, const std::map<std::string, std::string>& file_of) {
  if (config.layout == nullptr) return {};
  for (const auto& [name, file] : file_of) {
    for (const char* suffix : {config.layout->scales, config.layout->zeros}) {
      const std::string module = without(name, suffix);
      if (module.empty() || file_of.count(module + config.layout->codes) > 0 || file_of.count(module + ".weight") > 0)
        continue;
      return module + config.layout->codes;
    }
  }
  return {};
}

std::string label_without_codes(const PackedConfig& config) {
  return fmt::format(
      "{}: says that the model is quantized ({}, {} bits), but no codes are stored: the tensors count, and are read as "
      "the floats that they are; engines that go by the config do not load them: remove quantization_config, or fetch "
      "the model again if it should be quantized",
      config.file, config.layout->format, config.bits);
}

void compare_with_metadata(const PackedConfig& config, const std::map<const SafetensorsFile*, NativeMetadata>& files,
                           std::vector<std::string>& warnings) {
  std::map<std::string, const NativeMetadata*> by_path;
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

#include "families/config/generation_config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "families/config/config_reader.h"

namespace metal_marlin {

void read_generation_config(const ModelFolder& files, const std::string& folder, ModelConfig& config,
                            std::vector<std::string>& warnings) {
  const std::string path = (std::filesystem::path(folder) / "generation_config.json").string();
  if (files.folder().status("generation_config.json").kind == FileKind::kNone) return;
  const nlohmann::json j = read_json_object(path, warnings);
  auto& ids = config.eos_token_ids;
  std::unordered_set<int32_t> known(ids.begin(), ids.end());
  for (const int64_t id : ConfigReader(j, path).find_ints("eos_token_id", -1, kLargestSize)) {
    const auto token = static_cast<int32_t>(id);
    if (token >= 0 && known.insert(token).second) ids.push_back(token);
  }
}

void warn_of_ids(const std::string& folder, ModelConfig& config) {
  std::vector<int32_t> beyond;
  for (const int32_t id : config.eos_token_ids) {
    if (id >= config.vocab_size) beyond.push_back(id);
  }
  const std::string place = fmt::format("vocab_size {}", config.vocab_size);
  if (!beyond.empty()) {
    const bool all = beyond.size() == config.eos_token_ids.size();
    config.warnings.push_back(
        fmt::format("{}: eos_token_id {} of config.json or generation_config.json is beyond {}: no token has it{}; "
                    "correct the files",
                    folder, fmt::join(beyond, ", "), place, all ? ", and no text would end" : ""));
  }
  if (config.bos_token_id >= config.vocab_size) {
    config.warnings.push_back(
        fmt::format("{}: bos_token_id {} of config.json is beyond {}: no token has it; correct the file", folder,
                    config.bos_token_id, place));
  }
}

}  // namespace metal_marlin

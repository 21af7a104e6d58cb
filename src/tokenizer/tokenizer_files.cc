#include "tokenizer/tokenizer_files.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <filesystem>
#include <iterator>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/counted.h"
#include "core/files/model_file.h"
#include "formats/foreign_file.h"
#include "formats/text.h"
#include "tokenizer/token_bounds.h"
#include "tokenizer/tokenizer_faults.h"
#include "tokenizer/tokenizer_json.h"
#include "tokenizer/vocabulary/sentencepiece_model.h"

namespace metal_marlin {
namespace {

using Json = nlohmann::json;

// Far above any tokenizer.json in use (Gemma 3: 33 MB); the others are a few hundred kB at most.
constexpr uint64_t kLargestFile = uint64_t{80} << 20;

std::string read_if_there(const std::filesystem::path& path) {
  std::error_code ignored;
  if (!std::filesystem::exists(std::filesystem::symlink_status(path, ignored))) return {};
  std::string text = read_model_text(path.string(), kLargestFile);
  // An empty text stands for a file that is not there.
  if (text.find_first_not_of(" \t\r\n") == std::string::npos) {
    throw FormatError(
        fmt::format("{}: the file is empty ({}): download it again, or remove it if the model has "
                    "none",
                    path.string(), counted(text.size(), "byte")));
  }
  return text;
}

}  // namespace

std::string special_token(const Json& json, const char* key, const std::string& file) {
  const auto it = json.find(key);
  if (it == json.end() || it->is_null()) return {};
  const bool object = it->is_object() && it->contains("content");
  if (const Json& content = object ? (*it)["content"] : *it; content.is_string()) {
    check_token(content.get_ref<const std::string&>(), file, key);
    return content.get<std::string>();
  }
  throw FormatError(fmt::format("{}: {}: expected a string or an object with a string \"content\", found {}", file, key,
                                it->type_name()));
}

std::string chat_template_of(const Json& config, const std::string& file) {
  const auto it = config.find("chat_template");
  if (it == config.end() || it->is_null()) return {};
  if (it->is_string()) return it->get<std::string>();
  if (it->is_array()) {
    for (const auto& entry : *it) {
      if (!entry.is_object() || !entry.contains("name") || !entry.contains("template") || !entry["name"].is_string() ||
          !entry["template"].is_string())
        throw FormatError(
            fmt::format("{}: chat_template: expected objects with the strings \"name\" and \"template\"", file));
      if (entry["name"] == "default") return entry["template"].get<std::string>();
    }
    return {};
  }
  throw FormatError(fmt::format("{}: chat_template: expected a string or an array, found {}", file, it->type_name()));
}

NamedTokens named_in(const TokenizerFiles& files, const std::string& folder) {
  const std::string config_file = folder + "/tokenizer_config.json";
  const std::string map_file = folder + "/special_tokens_map.json";
  const Json config = parse_bounded_object(files.tokenizer_config_json, config_file);
  const Json map = parse_bounded_object(files.special_tokens_map_json, map_file);
  NamedTokens out;
  out.stated = stated_tokens(config, config_file);
  read_added_tokens(files.added_tokens_json, folder + "/added_tokens.json", out.stated);
  out.all = out.stated;
  in_order_of_ids(out.all);
  for (const auto& [json, file] : {std::pair{&config, &config_file}, {&map, &map_file}}) {
    std::vector<AddedToken> named = named_tokens(*json, *file);
    std::move(named.begin(), named.end(), std::back_inserter(out.all));
  }
  // A token that only added_tokens.json states is special where a special token of that name is named.
  for (const AddedToken& token : out.all)
    if (token.special) out.special.insert(token.content);
  return out;
}

Json added_json(const AddedToken& token) {
  return {{"content", token.content},
          {"single_word", token.single_word},
          {"lstrip", token.lstrip},
          {"rstrip", token.rstrip},
          {"normalized", token.with_attributes ? token.normalized : !token.special},
          {"special", token.special}};
}

TokenizerFiles read_tokenizer_files(const std::string& folder) {
  const std::filesystem::path path(folder);
  TokenizerFiles files;
  files.tokenizer_json = read_if_there(path / "tokenizer.json");
  files.tokenizer_config_json = read_if_there(path / "tokenizer_config.json");
  files.special_tokens_map_json = read_if_there(path / "special_tokens_map.json");
  files.added_tokens_json = read_if_there(path / "added_tokens.json");
  files.generation_config_json = read_if_there(path / "generation_config.json");
  files.chat_template_jinja = read_if_there(path / "chat_template.jinja");
  for (const std::string& foreign :
       {foreign_file_text(files.chat_template_jinja), answer_of_a_hub(files.chat_template_jinja)}) {
    if (!foreign.empty()) throw FormatError(fmt::format("{}: {}", (path / "chat_template.jinja").string(), foreign));
  }
  files.chat_template_json = read_if_there(path / "chat_template.json");
  if (files.tokenizer_json.empty()) {
    const std::string model = read_if_there(path / "tokenizer.model");
    if (model.empty())
      throw SystemError(
          fmt::format("{}: there is neither tokenizer.json nor tokenizer.model; copy the tokenizer's files "
                      "into the folder, all of the model's .json, .model and .jinja files",
                      folder));
    const auto rebuilt = tokenizer_from_sentencepiece(model, (path / "tokenizer.model").string(),
                                                      files.tokenizer_config_json, read_if_there(path / "config.json"));
    files.tokenizer_json = rebuilt.tokenizer_json;
    files.tokenizer_config_json = rebuilt.tokenizer_config_json;
    files.origin = "tokenizer.model";
  }
  return files;
}

}  // namespace metal_marlin

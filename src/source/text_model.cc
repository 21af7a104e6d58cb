#include "source/text_model.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <array>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

namespace metal_marlin {

using nlohmann::json;

bool unwrap_text_config(json& config, const std::string& file) {
  const auto type = config.find("model_type");
  if (type == config.end() || *type != "gemma3" || !config.contains("text_config")) return false;
  json text = config["text_config"];
  if (!text.is_object())
    throw FormatError(fmt::format("{}: text_config: expected an object, found {}", file, text.type_name()));
  if (!text.contains("model_type")) text["model_type"] = "gemma3_text";
  for (const char* key :
       {"eos_token_id", "bos_token_id", "pad_token_id", "torch_dtype", "dtype", "quantization_config"}) {
    if (!text.contains(key) && config.contains(key)) text[key] = config[key];
  }
  text["architectures"] = json::array({"Gemma3ForCausalLM"});
  config = std::move(text);
  return true;
}

std::string text_tensor_name(const std::string& name) {
  constexpr std::array<std::pair<std::string_view, std::string_view>, 4> kPrefixes = {
      {{"language_model.model.", "model."},
       {"language_model.lm_head.", "lm_head."},
       {"model.language_model.", "model."},
       {"lm_head.", "lm_head."}}};
  for (const auto& [prefix, instead] : kPrefixes) {
    if (name.starts_with(prefix)) return std::string(instead) + name.substr(prefix.size());
  }
  return "";
}

}  // namespace metal_marlin

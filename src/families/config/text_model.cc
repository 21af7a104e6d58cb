#include "families/config/text_model.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <array>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>

#include "formats/text.h"

namespace metal_marlin {

using nlohmann::json;

bool unwrap_text_config(json& config, const std::string& file, std::vector<std::string>& warnings) {
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
  // What transformers reads from the outer config.
  for (const char* key : {"tie_word_embeddings", "eos_token_id", "bos_token_id", "pad_token_id"}) {
    const auto outer = config.find(key);
    if (outer == config.end() || outer->is_null()) continue;
    const auto inner = text.find(key);
    if (inner != text.end() && !inner->is_null() && *inner != *outer) {
      const auto value = [](const json& v) {
        return escaped(v.dump(-1, ' ', false, json::error_handler_t::replace), 80);
      };
      warnings.push_back(
          fmt::format("{}: {} is {}, and text_config.{} is {}; the former counts, as in transformers: "
                      "remove the wrong one",
                      file, key, value(*outer), key, value(*inner)));
    }
    text[key] = *outer;
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

#include "families/registry.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "formats/text.h"

namespace metal_marlin {

// Each in the file of its name; the generations of a family share one.
const Family& llama_family();
const Family& mistral_family();
const Family& qwen2_family();
const Family& qwen3_family();
const Family& gemma2_family();
const Family& gemma3_family();
const Family& phi3_family();

const std::vector<const Family*>& families() {
  static const std::vector<const Family*> all = {&llama_family(),  &mistral_family(), &qwen2_family(), &qwen3_family(),
                                                 &gemma2_family(), &gemma3_family(),  &phi3_family()};
  return all;
}

namespace {

bool contains(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

std::string known() {
  std::vector<std::string> names;
  for (const Family* f : families()) names.push_back(f->name);
  return fmt::format("{}", fmt::join(names, ", "));
}

}  // namespace

const Family& find_family(const nlohmann::json& config, const std::string& file) {
  std::string found;
  if (const auto it = config.find("model_type"); it != config.end() && it->is_string()) {
    found = it->get<std::string>();
    for (const Family* f : families()) {
      if (contains(f->model_types, found)) return *f;
    }
  }
  // Code beyond the known families hides behind a known architecture's name now and then; its model_type tells.
  if (const auto it = config.find("architectures"); found.empty() && it != config.end() && it->is_array()) {
    for (const auto& entry : *it) {
      if (!entry.is_string()) continue;
      for (const Family* f : families()) {
        if (contains(f->architectures, entry.get<std::string>())) return *f;
      }
      if (found.empty()) found = entry.get<std::string>();
    }
  }
  if (found.empty()) throw FormatError(fmt::format("{}: expected model_type or architectures, found neither", file));
  throw UnsupportedError(
      fmt::format("{}: model type {} is not supported; supported are {}", file, shown(found), known()));
}

void compare_architectures(const nlohmann::json& architectures, const Family& family, const std::string& file,
                           std::vector<std::string>& warnings) {
  if (!architectures.is_array() || architectures.empty()) return;
  // LlamaModel and LlamaForSequenceClassification are Llamas too.
  const auto of_the_family = [&](const nlohmann::json& entry) {
    if (!entry.is_string()) return false;
    const auto name = entry.get<std::string>();
    return std::any_of(family.architectures.begin(), family.architectures.end(), [&](const std::string& own) {
      const std::string stem = own.substr(0, own.rfind("ForCausalLM"));
      return name == own || name == stem + "Model" ||
             (name.starts_with(stem + "For") && !name.starts_with(stem + "ForCausalLM"));
    });
  };
  if (std::any_of(architectures.begin(), architectures.end(), of_the_family)) return;
  warnings.push_back(fmt::format(
      "{}: architectures is {}, but the model_type is one of the family {} ({}); model_type counts: correct the wrong "
      "one",
      file, escaped(architectures.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace), 120), family.name,
      fmt::join(family.architectures, ", ")));
}

const Family& find_family_of_gguf(const std::string& architecture, const std::string& file) {
  for (const Family* f : families()) {
    if (contains(f->gguf_architectures, architecture)) return *f;
  }
  throw UnsupportedError(fmt::format("{}: general.architecture {} is not supported; supported are {}", file,
                                     shown(architecture), known()));
}

}  // namespace metal_marlin

#include "tokenizer/added_tokens.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <charconv>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <unordered_set>
#include <utility>

#include "formats/text.h"
#include "tokenizer/token_bounds.h"
#include "tokenizer/tokenizer_json.h"

namespace metal_marlin {

using Json = nlohmann::json;

std::optional<bool> flag(const Json& json, const char* key, const std::string& file) {
  const auto it = json.find(key);
  if (it == json.end() || it->is_null()) return std::nullopt;
  if (!it->is_boolean())
    throw FormatError(fmt::format("{}: {}: expected true or false, found {}", file, key, it->type_name()));
  return it->get<bool>();
}

namespace {

AddedToken with_attributes(const Json& json, const std::string& where) {
  if (!json.is_object() || !json.contains("content") || !json["content"].is_string())
    throw FormatError(
        fmt::format("{}: expected an object with a string \"content\", found {}", where, json.type_name()));
  check_token(json["content"].get_ref<const std::string&>(), where, "content");
  AddedToken token{json["content"].get<std::string>()};
  token.with_attributes = true;
  token.special = flag(json, "special", where).value_or(false);
  token.single_word = flag(json, "single_word", where).value_or(false);
  token.lstrip = flag(json, "lstrip", where).value_or(false);
  token.rstrip = flag(json, "rstrip", where).value_or(false);
  token.normalized = flag(json, "normalized", where).value_or(!token.special);
  return token;
}

int64_t token_id(const std::string& key, const std::string& where) {
  int64_t id = -1;
  const auto [end, code] = std::from_chars(key.data(), key.data() + key.size(), id);
  if (code != std::errc() || end != key.data() + key.size() || id < 0 || id > std::numeric_limits<int32_t>::max())
    throw FormatError(fmt::format("{}: {} is no token id", where, shown(key)));
  return id;
}

}  // namespace

std::vector<AddedToken> stated_tokens(const Json& config, const std::string& file) {
  std::vector<AddedToken> tokens;
  const auto it = config.find("added_tokens_decoder");
  if (it == config.end() || it->is_null()) return tokens;
  const std::string where = file + ": added_tokens_decoder";
  if (!it->is_object()) throw FormatError(fmt::format("{}: expected an object, found {}", where, it->type_name()));
  for (const auto& [key, value] : it->items()) {
    AddedToken token = with_attributes(value, fmt::format("{}: token {}", where, shown(key)));
    token.id = token_id(key, where);
    token.file = file;
    tokens.push_back(std::move(token));
  }
  std::sort(tokens.begin(), tokens.end(), [](const AddedToken& a, const AddedToken& b) { return *a.id < *b.id; });
  return tokens;
}

void read_added_tokens(const std::string& text, const std::string& file, std::vector<AddedToken>& tokens) {
  std::vector<AddedToken> found;
  const Json json = parse_bounded_object(text, file);
  for (const auto& [content, id] : json.items()) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() > std::numeric_limits<int32_t>::max())
      throw FormatError(fmt::format("{}: token {}: expected an id, found {}", file, shown(content), id.type_name()));
    check_token(content, file, "token " + escaped(content));
    found.push_back({content, id.get<int64_t>(), file});
  }
  std::sort(found.begin(), found.end(), [](const AddedToken& a, const AddedToken& b) { return *a.id < *b.id; });
  std::move(found.begin(), found.end(), std::back_inserter(tokens));
}

void in_order_of_ids(std::vector<AddedToken>& tokens) {
  std::unordered_set<std::string> seen;
  std::erase_if(tokens, [&](const AddedToken& token) { return !seen.insert(token.content).second; });
  std::stable_sort(tokens.begin(), tokens.end(),
                   [](const AddedToken& a, const AddedToken& b) { return *a.id < *b.id; });
}

std::vector<AddedToken> named_tokens(const Json& json, const std::string& file) {
  std::vector<AddedToken> tokens;
  const auto add = [&](const Json& value, const std::string& key) {
    if (value.is_null()) return;
    AddedToken token;
    if (value.is_string()) {
      token.content = value.get<std::string>();
      check_token(token.content, file, key);
    } else {
      token = with_attributes(value, file + ": " + key);
      // Attributes of a named token count only for a new one.
      token.with_attributes = false;
    }
    token.special = true;
    token.file = file;
    tokens.push_back(std::move(token));
  };
  for (const char* key : {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"})
    if (const auto it = json.find(key); it != json.end()) add(*it, key);
  for (const char* key : {"additional_special_tokens", "extra_special_tokens"}) {
    const auto it = json.find(key);
    if (it == json.end() || it->is_null()) continue;
    if (!it->is_array() && !it->is_object())
      throw FormatError(fmt::format("{}: {}: expected a list of tokens, found {}", file, key, it->type_name()));
    for (const auto& value : *it) add(value, key);
  }
  return tokens;
}

}  // namespace metal_marlin

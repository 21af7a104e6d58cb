// Tokens that the files beside a vocabulary add to it, or give attributes.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

namespace metal_marlin {

struct AddedToken {
  std::string content;
  std::optional<int64_t> id;
  std::string file;  // that states it
  bool with_attributes = false;
  bool single_word = false, lstrip = false, rstrip = false, normalized = false, special = false;
};

// FormatError that names file and key for what is neither true, false nor null.
std::optional<bool> flag(const nlohmann::json& json, const char* key, const std::string& file);

// tokenizer_config.json's added_tokens_decoder, by id.
std::vector<AddedToken> stated_tokens(const nlohmann::json& config, const std::string& file);
// Adds those of added_tokens.json, by id.
void read_added_tokens(const std::string& text, const std::string& file, std::vector<AddedToken>& tokens);
// The tokens of several files by id, each content once: as the first of them states it.
void in_order_of_ids(std::vector<AddedToken>& tokens);
// The special tokens that a file names, by key.
std::vector<AddedToken> named_tokens(const nlohmann::json& json, const std::string& file);

}  // namespace metal_marlin

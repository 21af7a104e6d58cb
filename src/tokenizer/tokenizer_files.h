// The files that make a tokenizer, and what those beside a vocabulary say.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <unordered_set>
#include <vector>

#include "tokenizer/added_tokens.h"

namespace metal_marlin {

// The contents of a model folder's files; an empty string: there is no such file.
struct TokenizerFiles {
  std::string tokenizer_json;
  std::string tokenizer_config_json;
  std::string special_tokens_map_json;
  std::string added_tokens_json;          // {"token": id}
  std::string generation_config_json;     // only its eos_token_id is read
  std::string chat_template_jinja;        // wins over chat_template_json
  std::string chat_template_json;         // {"chat_template": ...}, wins over the template inside tokenizer_config_json
  std::string origin = "tokenizer.json";  // what messages call the vocabulary
  std::vector<std::string> warnings;      // of what made these texts
};

// The texts of a model's folder; those that are not there are empty. A tokenizer.model is rebuilt as tokenizer.json
// where that is missing. FormatError names a file that is empty, or of another kind; SystemError: there is neither.
TokenizerFiles read_tokenizer_files(const std::string& folder);

// What the files beside a vocabulary say of its tokens.
struct NamedTokens {
  std::vector<AddedToken> stated;           // with ids
  std::vector<AddedToken> all;              // by id, then the special tokens
  std::unordered_set<std::string> special;  // contents
};
NamedTokens named_in(const TokenizerFiles& files, const std::string& folder);
// As the engine takes it.
nlohmann::json added_json(const AddedToken& token);

// bos_token and the like: a string, or an object that holds one as "content" (AddedToken), or null. Empty: none.
std::string special_token(const nlohmann::json& json, const char* key, const std::string& file);
// A string, or a list of {"name", "template"} of which the one named "default" counts. Empty: none.
std::string chat_template_of(const nlohmann::json& config, const std::string& file);

}  // namespace metal_marlin

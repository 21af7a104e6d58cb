#include "source/tokenizer.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/mapped_file.h"
#include "formats/json_fault.h"
#include "source/sentencepiece_model.h"
#include "source/tokenizer_c/tokenizer_c.h"

namespace metal_marlin {
namespace {

using Json = nlohmann::json;

// Far above any tokenizer.json in use (Gemma 3: 33 MB); the others are a few hundred kB at most.
constexpr size_t kLargestFile = size_t{256} << 20;

std::string read_if_there(const std::filesystem::path& path) {
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return {};
  const MappedFile file(path.string());
  const auto bytes = file.bytes();
  if (bytes.size() > kLargestFile)
    throw FormatError(
        fmt::format("{}: {} bytes; a tokenizer's file has at most {}", path.string(), bytes.size(), kLargestFile));
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

Json parse_object(const std::string& text, const std::string& file) {
  if (text.empty()) return Json::object();
  // Nesting is bounded before the parser builds it: destroying a deep value recurses.
  constexpr int kDeepest = 100;
  bool too_deep = false;
  const auto callback = [&too_deep](int depth, Json::parse_event_t, Json&) {
    too_deep = too_deep || depth > kDeepest;
    return !too_deep;
  };
  Json json = Json::parse(text, callback, false);
  if (too_deep) throw FormatError(fmt::format("{}: nested more than {} deep", file, kDeepest));
  if (json.is_discarded()) throw FormatError(fmt::format("{}: {}", file, json_fault_text(text)));
  if (!json.is_object()) throw FormatError(fmt::format("{}: expected an object, found {}", file, json.type_name()));
  return json;
}

// A special token is a string, or an object that holds one as "content" (AddedToken), or null.
std::string special_token(const Json& json, const char* key, const std::string& file) {
  const auto it = json.find(key);
  if (it == json.end() || it->is_null()) return {};
  if (it->is_string()) return it->get<std::string>();
  if (it->is_object() && it->contains("content") && (*it)["content"].is_string())
    return (*it)["content"].get<std::string>();
  throw FormatError(fmt::format("{}: {}: expected a string or an object with a string \"content\", found {}", file, key,
                                it->type_name()));
}

std::optional<bool> flag(const Json& json, const char* key, const std::string& file) {
  const auto it = json.find(key);
  if (it == json.end() || it->is_null()) return std::nullopt;
  if (!it->is_boolean())
    throw FormatError(fmt::format("{}: {}: expected true or false, found {}", file, key, it->type_name()));
  return it->get<bool>();
}

// A string, or a list of {"name", "template"} of which the one named "default" counts.
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

}  // namespace

struct Tokenizer::Handle {
  explicit Handle(tokenizer_c* t) : tokenizer(t) {}
  ~Handle() { tokenizer_c_free(tokenizer); }
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  tokenizer_c* tokenizer;
};

Tokenizer::Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Tokenizer Tokenizer::from_json(std::string_view tokenizer_json, const std::string& file) {
  Tokenizer t;
  tokenizer_c* raw = tokenizer_c_create(tokenizer_json.data(), tokenizer_json.size());
  if (raw == nullptr) {
    if (find_json_fault(tokenizer_json))
      throw FormatError(fmt::format("{}: {}", file, json_fault_text(tokenizer_json)));
    throw FormatError(fmt::format("{}: no valid tokenizer.json: {}", file, tokenizer_c_last_error()));
  }
  t.handle_ = std::make_unique<Handle>(raw);
  t.vocab_size_ = tokenizer_c_vocab_size(raw);
  if (t.vocab_size_ <= 0 || t.vocab_size_ > std::numeric_limits<int32_t>::max())
    throw FormatError(fmt::format("{}: the vocabulary has {} tokens", file, t.vocab_size_));
  return t;
}

Tokenizer Tokenizer::from_files(const TokenizerFiles& files, const std::string& folder) {
  Tokenizer t = from_json(files.tokenizer_json, folder + "/tokenizer.json");
  t.read_settings(files, folder);
  return t;
}

Tokenizer Tokenizer::from_folder(const std::string& folder) {
  const std::filesystem::path path(folder);
  TokenizerFiles files;
  files.tokenizer_json = read_if_there(path / "tokenizer.json");
  files.tokenizer_config_json = read_if_there(path / "tokenizer_config.json");
  files.special_tokens_map_json = read_if_there(path / "special_tokens_map.json");
  files.generation_config_json = read_if_there(path / "generation_config.json");
  files.chat_template_jinja = read_if_there(path / "chat_template.jinja");
  if (files.tokenizer_json.empty()) {
    const std::string model = read_if_there(path / "tokenizer.model");
    if (model.empty())
      throw SystemError(
          fmt::format("{}: there is neither tokenizer.json nor tokenizer.model; copy the tokenizer's files "
                      "into the folder, all of the model's .json, .model and .jinja files",
                      folder));
    const auto rebuilt =
        tokenizer_from_sentencepiece(model, (path / "tokenizer.model").string(), files.tokenizer_config_json);
    files.tokenizer_json = rebuilt.tokenizer_json;
    files.tokenizer_config_json = rebuilt.tokenizer_config_json;
  }
  return from_files(files, folder);
}

void Tokenizer::read_settings(const TokenizerFiles& files, const std::string& folder) {
  const std::string config_file = folder + "/tokenizer_config.json";
  const std::string map_file = folder + "/special_tokens_map.json";
  const std::string generation_file = folder + "/generation_config.json";
  const Json config = parse_object(files.tokenizer_config_json, config_file);
  const Json map = parse_object(files.special_tokens_map_json, map_file);
  const Json generation = parse_object(files.generation_config_json, generation_file);

  const std::pair<const char*, std::string&> named[] = {
      {"bos_token", bos_token_}, {"eos_token", eos_token_}, {"unk_token", unk_token_}, {"pad_token", pad_token_}};
  for (const auto& [key, token] : named) {
    token = special_token(config, key, config_file);
    if (token.empty()) token = special_token(map, key, map_file);
  }
  bos_id_ = bos_token_.empty() ? std::nullopt : token_to_id(bos_token_);
  eos_id_ = eos_token_.empty() ? std::nullopt : token_to_id(eos_token_);

  const auto begins_with_bos = [this] {
    const auto ids = encode("", true);
    return bos_id_ && !ids.empty() && ids.front() == *bos_id_;
  };
  const auto add_bos = flag(config, "add_bos_token", config_file);
  const auto add_eos = flag(config, "add_eos_token", config_file);
  if (add_bos || add_eos) {
    const bool bos = bos_id_ && (add_bos ? *add_bos : begins_with_bos());
    const bool eos = eos_id_ && add_eos.value_or(false);
    const int failed = tokenizer_c_set_ends(handle_->tokenizer, bos ? bos_token_.data() : nullptr, bos_token_.size(),
                                            eos ? eos_token_.data() : nullptr, eos_token_.size());
    if (failed != 0) throw FormatError(fmt::format("{}: {}", config_file, tokenizer_c_last_error()));
  }
  adds_bos_ = begins_with_bos();

  if (eos_id_) eos_ids_.push_back(*eos_id_);
  const auto add_end = [&](const Json& id) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() > std::numeric_limits<int32_t>::max())
      throw FormatError(fmt::format("{}: eos_token_id: expected token ids, found {}", generation_file, id.dump()));
    const auto value = id.get<int32_t>();
    if (std::find(eos_ids_.begin(), eos_ids_.end(), value) == eos_ids_.end()) eos_ids_.push_back(value);
  };
  if (const auto it = generation.find("eos_token_id"); it != generation.end() && !it->is_null()) {
    if (it->is_array())
      for (const auto& id : *it) add_end(id);
    else
      add_end(*it);
  }
  chat_template_ =
      files.chat_template_jinja.empty() ? chat_template_of(config, config_file) : files.chat_template_jinja;
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool add_special_tokens) const {
  const tokenizer_c_ids ids =
      tokenizer_c_encode(handle_->tokenizer, text.data(), text.size(), add_special_tokens ? 1 : 0);
  if (ids.data == nullptr) throw FormatError(fmt::format("a text cannot be tokenized: {}", tokenizer_c_last_error()));
  std::vector<int32_t> out(ids.data, ids.data + ids.size);
  tokenizer_c_ids_free(ids);
  return out;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special_tokens) const {
  std::vector<uint32_t> list;
  list.reserve(ids.size());
  for (const int32_t id : ids) {
    if (id < 0) throw ArgumentError(fmt::format("there is no token {}", id));
    list.push_back(static_cast<uint32_t>(id));
  }
  const tokenizer_c_text text =
      tokenizer_c_decode(handle_->tokenizer, list.data(), list.size(), skip_special_tokens ? 1 : 0);
  if (text.data == nullptr) throw FormatError(fmt::format("tokens cannot be decoded: {}", tokenizer_c_last_error()));
  std::string out(text.data, text.size);
  tokenizer_c_text_free(text);
  return out;
}

std::optional<int32_t> Tokenizer::token_to_id(std::string_view token) const {
  const int64_t id = tokenizer_c_token_to_id(handle_->tokenizer, token.data(), token.size());
  if (id < 0 || id > std::numeric_limits<int32_t>::max()) return std::nullopt;
  return static_cast<int32_t>(id);
}

std::string Tokenizer::id_to_token(int32_t id) const {
  if (id < 0) throw ArgumentError(fmt::format("there is no token {}", id));
  const tokenizer_c_text text = tokenizer_c_id_to_token(handle_->tokenizer, static_cast<uint32_t>(id));
  if (text.data == nullptr) throw ArgumentError(tokenizer_c_last_error());
  std::string out(text.data, text.size);
  tokenizer_c_text_free(text);
  return out;
}

std::string StreamDecoder::take(bool whole) {
  static constexpr std::string_view kReplacement = "\xEF\xBF\xBD";
  // A character has at most 4 bytes, so at most 4 byte tokens: a longer run of broken ones will not heal.
  constexpr size_t kLongestWait = 8;
  const std::string before = tokenizer_.decode(std::span(ids_).first(read_), skip_special_tokens_);
  std::string now = tokenizer_.decode(ids_, skip_special_tokens_);
  if (!whole && ids_.size() - read_ < kLongestWait && now.ends_with(kReplacement)) return {};
  // After a wait given up, a decoder may read the bytes handed out before anew: then the new tokens stand alone.
  std::string piece = now.starts_with(before) ? now.substr(before.size())
                                              : tokenizer_.decode(std::span(ids_).subspan(read_), skip_special_tokens_);
  if (piece.empty() && !whole) return {};
  ids_.erase(ids_.begin(), ids_.begin() + static_cast<std::ptrdiff_t>(read_));
  read_ = ids_.size();
  return piece;
}

std::string StreamDecoder::push(int32_t id) {
  ids_.push_back(id);
  return take(false);
}

std::string StreamDecoder::finish() {
  return read_ == ids_.size() ? std::string() : take(true);
}

}  // namespace metal_marlin

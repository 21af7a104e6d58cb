#include "tokenizer/tokenizer.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "core/counted.h"
#include "core/files/text_file.h"
#include "formats/foreign_file.h"
#include "formats/text.h"
#include "tokenizer/added_tokens.h"
#include "tokenizer/token_bounds.h"
#include "tokenizer/tokenizer_c/tokenizer_c.h"
#include "tokenizer/tokenizer_faults.h"
#include "tokenizer/tokenizer_files.h"
#include "tokenizer/tokenizer_json.h"
#include "tokenizer/vocabulary/gguf_pre_tokenizers.h"

namespace metal_marlin {
namespace {

using Json = nlohmann::json;

constexpr std::string_view kStopped = "stopped";  // what the crate says where the caller wants the work to stop

std::string dumped(const Json& json, const std::string& file) {
  try {
    return json.dump();
  } catch (const Json::exception&) {
    throw FormatError(fmt::format("{}: a token is not UTF-8", file));
  }
}

bool is_gguf(const TokenizerFiles& files) {
  return files.origin.starts_with("tokenizer.ggml");
}

std::string place_of(const TokenizerFiles& files, const std::string& folder) {
  return folder + (is_gguf(files) ? ": " : "/") + files.origin;
}

// Tokens that the vocabulary lacks, by content: as stated first.
using FreshTokens = std::unordered_map<std::string, AddedToken>;

void check_added_sizes(const Json& list, const TokenizerFiles& files, const std::string& folder) {
  size_t bytes = 0;
  for (const auto& token : list) bytes += token["content"].get_ref<const std::string&>().size();
  if (list.size() <= kMostAddedTokens && bytes <= kMostAddedBytes) return;
  throw FormatError(fmt::format(
      "{}: the files beside {} add {} of {} bytes together, expected at most {} and {} bytes; get the tokenizer's "
      "files from the model's publisher again",
      folder, files.origin, counted(list.size(), "token"), bytes, kMostAddedTokens, kMostAddedBytes));
}

// Tokens that have other ids than their files state: a warning or FormatError.
void check_stated_ids(const Tokenizer& tokenizer, const std::vector<AddedToken>& stated, const FreshTokens& fresh,
                      const std::string& vocabulary, std::vector<std::string>& warnings) {
  for (const AddedToken& token : stated) {
    const auto id = token.content.empty() ? std::nullopt : tokenizer.token_to_id(token.content);
    if (!id || *id == *token.id) continue;
    const std::string what =
        fmt::format("{}: the token {} has the id {} there, but", token.file, shown(token.content), *token.id);
    const auto it = fresh.find(token.content);
    if (it != fresh.end() && it->second.id == token.id)
      throw FormatError(
          fmt::format("{} the next free one of {} is {}; get the files of one tokenizer from the model's "
                      "publisher again",
                      what, vocabulary, *id));
    warnings.push_back(
        fmt::format("{} {} in {}, which counts", what, *id, it == fresh.end() ? vocabulary : it->second.file));
  }
}

// Every token has a row of the model. `before`, `after`: ids without the fresh tokens, and with them.
void check_rows(const Tokenizer& tokenizer, const TokenizerFiles& files, const std::string& folder, int64_t model_vocab,
                int64_t before, int64_t after, const FreshTokens& fresh) {
  // Gemma 3's tokenizer keeps the placeholder of images, for which its text models have no row.
  const bool placeholder =
      after == model_vocab + 1 && tokenizer.token_to_id("<image_soft_token>") == static_cast<int32_t>(model_vocab);
  if (after <= model_vocab || placeholder) return;
  const std::string rows =
      fmt::format("{} {}", is_gguf(files) ? "the rows of token_embd.weight are" : "vocab_size is", model_vocab);
  constexpr const char* kCause =
      "the tokenizer belongs to another model, or tokens were added to it without resizing the model's embedding; get "
      "both from one place";
  if (before > model_vocab)
    throw FormatError(fmt::format("{}: {} has {} tokens, {}: {}", folder, files.origin, before, rows, kCause));
  // The first token of another file for which the model has no row.
  const AddedToken* beyond = nullptr;
  std::optional<int32_t> least;
  for (const auto& [content, token] : fresh) {
    const auto id = tokenizer.token_to_id(content);
    if (!id || *id < model_vocab || (least && *id >= *least)) continue;
    least = id;
    beyond = &token;
  }
  throw FormatError(beyond == nullptr
                        ? fmt::format("{}: {} has {} tokens, {}: {}", folder, files.origin, after, rows, kCause)
                        : fmt::format("{}: adds {} with the id {} to the {} of {}, {}: {}", beyond->file,
                                      shown(beyond->content), *least, counted(before, "token"), files.origin, rows,
                                      kCause));
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

const ::tokenizer_c* Tokenizer::handle() const noexcept {
  return handle_->tokenizer;
}

Tokenizer Tokenizer::from_json(std::string_view tokenizer_json, const std::string& file) {
  Tokenizer t;
  t.place_ = file;
  if (tokenizer_json.starts_with(kByteOrderMark)) tokenizer_json.remove_prefix(kByteOrderMark.size());
  check_tokenizer_json(tokenizer_json, file);
  tokenizer_c* raw = tokenizer_c_create(tokenizer_json.data(), tokenizer_json.size());
  if (raw == nullptr) {
    const std::string reason = tokenizer_failure();
    if (reason == kStopped) throw Interrupted("interrupted");
    if (reason.starts_with("it takes more than")) throw FormatError(fmt::format("{}: to load, {}", file, reason));
    if (const std::string fault = tokenizer_fault_text(tokenizer_json); !fault.empty())
      throw FormatError(fmt::format("{}: {}", file, fault));
    throw FormatError(
        fmt::format("{}: no valid tokenizer.json: {}; download it again, or save it anew with a current "
                    "version of transformers",
                    file, reason));
  }
  t.handle_ = std::make_unique<Handle>(raw);
  t.vocab_size_ = tokenizer_c_vocab_size(raw);
  if (t.vocab_size_ <= 0 || t.vocab_size_ > std::numeric_limits<int32_t>::max())
    throw FormatError(fmt::format("{}: the vocabulary has {}", file, counted(t.vocab_size_, "token")));
  return t;
}

Tokenizer Tokenizer::from_files(const TokenizerFiles& files, const std::string& folder, int64_t model_vocab) {
  Tokenizer t = from_json(files.tokenizer_json, place_of(files, folder));
  t.warnings_ = files.warnings;
  const std::pair<const std::string*, std::string> texts[] = {
      {&files.tokenizer_json, files.origin},
      {&files.tokenizer_config_json, "tokenizer_config.json"},
      {&files.special_tokens_map_json, "special_tokens_map.json"},
      {&files.added_tokens_json, "added_tokens.json"},
      {&files.generation_config_json, "generation_config.json"},
      {&files.chat_template_json, "chat_template.json"}};
  for (const auto& [text, name] : texts) {
    if (!text->starts_with(kByteOrderMark)) continue;
    t.warnings_.push_back(byte_order_mark_warning(folder + "/" + name));
  }
  t.add_tokens(files, folder, model_vocab);
  t.read_settings(files, folder);
  return t;
}

Tokenizer Tokenizer::from_folder(const std::string& folder, int64_t model_vocab) {
  return from_files(read_tokenizer_files(folder), folder, model_vocab);
}

void Tokenizer::add_tokens(const TokenizerFiles& files, const std::string& folder, int64_t model_vocab) {
  NamedTokens named = named_in(files, folder);
  Json list = Json::array();
  FreshTokens fresh;
  std::unordered_set<std::string> seen;
  const int64_t before = next_id();
  for (AddedToken& token : named.all) {
    if (token.content.empty()) continue;
    if (!seen.insert(token.content).second) continue;
    const bool there = token_to_id(token.content).has_value();
    // What states no attributes changes none.
    if (there && !token.with_attributes) continue;
    if (!there && !token.id && model_vocab > 0 && before + static_cast<int64_t>(fresh.size()) >= model_vocab) {
      warnings_.push_back(
          fmt::format("{}: {} is named as a special token, but it is no token of {}, and the model has no row for it",
                      token.file, shown(token.content), files.origin));
      continue;
    }
    if (!there) fresh[token.content] = token;
    if (!token.with_attributes && named.special.contains(token.content)) token.special = true;
    list.push_back(added_json(token));
  }
  check_added_sizes(list, files, folder);
  if (!list.empty()) {
    const std::string text = dumped(list, folder);
    if (tokenizer_c_add_tokens(handle_->tokenizer, text.data(), text.size()) != 0) {
      const std::string why = tokenizer_failure();
      if (why == kStopped) throw Interrupted("interrupted");
      throw FormatError(fmt::format("{}/tokenizer_config.json: its tokens cannot be added: {}", folder, why));
    }
    vocab_size_ = tokenizer_c_vocab_size(handle_->tokenizer);
  }
  check_stated_ids(*this, named.stated, fresh, place_of(files, folder), warnings_);
  if (model_vocab > 0) check_rows(*this, files, folder, model_vocab, before, next_id(), fresh);
}

int64_t Tokenizer::next_id() const {
  const int64_t last = tokenizer_c_last_id(handle_->tokenizer);
  if (last < 0) throw FormatError(fmt::format("{}: its ids cannot be read: {}", place_, tokenizer_failure()));
  return last + 1;
}

void Tokenizer::read_settings(const TokenizerFiles& files, const std::string& folder) {
  const std::string config_file = folder + "/tokenizer_config.json";
  const std::string map_file = folder + "/special_tokens_map.json";
  const std::string generation_file = folder + "/generation_config.json";
  const Json config = parse_bounded_object(files.tokenizer_config_json, config_file);
  const Json map = parse_bounded_object(files.special_tokens_map_json, map_file);
  const Json generation = parse_bounded_object(files.generation_config_json, generation_file);

  const std::pair<const char*, std::string&> named[] = {
      {"bos_token", bos_token_}, {"eos_token", eos_token_}, {"unk_token", unk_token_}, {"pad_token", pad_token_}};
  // As transformers reads them: the map is the older form, and counts where the config states no added tokens.
  const bool config_counts = config.contains("added_tokens_decoder");
  for (const auto& [key, token] : named) {
    const std::string of_config = special_token(config, key, config_file);
    const std::string of_map = special_token(map, key, map_file);
    token = of_map.empty() || (config_counts && !of_config.empty()) ? of_config : of_map;
    if (!of_config.empty() && !of_map.empty() && of_config != of_map)
      warnings_.push_back(fmt::format("{}: {} is {}, but {} in {}; {} counts", config_file, key, shown(of_config),
                                      shown(of_map), map_file, shown(token)));
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
    if (failed != 0) throw FormatError(fmt::format("{}: {}", config_file, tokenizer_failure()));
  }
  adds_bos_ = begins_with_bos();

  std::unordered_set<int32_t> ends;
  if (eos_id_) eos_ids_.push_back(*eos_id_), ends.insert(*eos_id_);
  const auto add_end = [&](const Json& id) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() > std::numeric_limits<int32_t>::max())
      throw FormatError(fmt::format("{}: eos_token_id: expected token ids, found {}", generation_file, id.dump()));
    const auto value = id.get<int32_t>();
    if (ends.insert(value).second) eos_ids_.push_back(value);
  };
  if (const auto it = generation.find("eos_token_id"); it != generation.end() && !it->is_null()) {
    if (it->is_array())
      for (const auto& id : *it) add_end(id);
    else
      add_end(*it);
  }
  const std::string template_file = folder + "/chat_template.json";
  if (!files.chat_template_jinja.empty()) {
    chat_template_ = files.chat_template_jinja;
    chat_template_place_ = folder + "/chat_template.jinja";
  } else if (chat_template_ =
                 chat_template_of(parse_bounded_object(files.chat_template_json, template_file), template_file);
             !chat_template_.empty()) {
    chat_template_place_ = template_file;
  } else if (chat_template_ = chat_template_of(config, config_file); !chat_template_.empty()) {
    chat_template_place_ = is_gguf(files) ? folder + ": tokenizer.chat_template" : config_file + ": chat_template";
  }
  if (chat_template_.empty() && is_gguf(files)) chat_template_place_ = folder + ": tokenizer.chat_template";
  if (chat_template_.starts_with(kByteOrderMark)) {
    chat_template_.erase(0, kByteOrderMark.size());
    warnings_.push_back(
        fmt::format("{}: begins with a byte order mark, which is left out; other programs make a token of it: save it "
                    "as UTF-8 without one",
                    chat_template_place_));
  }
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool add_special_tokens) const {
  const tokenizer_c_ids ids =
      tokenizer_c_encode(handle_->tokenizer, text.data(), text.size(), add_special_tokens ? 1 : 0);
  if (ids.data == nullptr) {
    const std::string why = tokenizer_failure();
    if (why == kStopped) throw Interrupted("interrupted");
    throw FormatError(fmt::format("{}: a text cannot be tokenized: {}", place_, why));
  }
  std::vector<int32_t> out(ids.data, ids.data + ids.size);
  tokenizer_c_ids_free(ids);
  // The post-processor of a file may add any id.
  uint32_t highest = 0;
  for (const int32_t id : out) highest = std::max(highest, static_cast<uint32_t>(id));
  if (highest >= vocab_size_ && highest >= next_id()) {
    throw FormatError(
        fmt::format("{}: post_processor: expected ids of its tokens, which are below {}, found {}; get "
                    "the file from the model's publisher again",
                    place_, next_id(), highest));
  }
  return out;
}

Tokenizer::LineCut Tokenizer::line_cut() const {
  Json patterns = {{"cutting", Json::array()}, {"indifferent", Json::array()}};
  for (const auto pattern : line_cutting_patterns()) patterns["cutting"].push_back(pattern);
  for (const auto pattern : line_indifferent_patterns()) patterns["indifferent"].push_back(pattern);
  const std::string text = patterns.dump();
  const int cut = tokenizer_c_line_cut(handle_->tokenizer, text.data(), text.size());
  if (cut < 0) throw FormatError(fmt::format("{}: it cannot be used: {}", place_, tokenizer_failure()));
  return static_cast<LineCut>(cut);
}

std::vector<int32_t> Tokenizer::encode_rest(std::string_view part) const {
  std::vector<int32_t> ids = encode(part, false);
  if (!part.starts_with('\n')) return ids;
  // Before the line feed stands what comes before every text.
  const size_t before = encode("\n", false).size() - 1;
  ids.erase(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(std::min(before, ids.size())));
  return ids;
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
  if (text.data == nullptr) {
    const std::string why = tokenizer_failure();
    if (why == kStopped) throw Interrupted("interrupted");
    throw FormatError(fmt::format("{}: tokens cannot be decoded: {}", place_, why));
  }
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
  if (text.data == nullptr) throw ArgumentError(tokenizer_failure());
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

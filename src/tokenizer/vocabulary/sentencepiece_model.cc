#include "tokenizer/vocabulary/sentencepiece_model.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/counted.h"
#include "formats/foreign_file.h"
#include "formats/text.h"
#include "tokenizer/added_tokens.h"
#include "tokenizer/token_bounds.h"

namespace metal_marlin {
namespace {

using Json = nlohmann::json;

// One field of a protobuf message: a number (varint, fixed 32 or 64 bits) or bytes.
struct Field {
  uint32_t number = 0;
  uint32_t wire = 0;
  uint64_t value = 0;
  std::string_view bytes;
};

class Message {
 public:
  Message(std::string_view bytes, const std::string& file) : rest_(bytes), file_(file) {}

  bool next(Field& field) {
    if (rest_.empty()) return false;
    const uint64_t key = varint();
    field = {};
    field.wire = static_cast<uint32_t>(key & 7);
    if (key >> 3 == 0 || key >> 3 > 0x1FFFFFFF) broken("a field number is out of range");
    field.number = static_cast<uint32_t>(key >> 3);
    switch (field.wire) {
      case 0:
        field.value = varint();
        break;
      case 1:
        field.value = fixed(8);
        break;
      case 2: {
        const uint64_t size = varint();
        if (size > rest_.size()) broken("a length reaches beyond the end");
        field.bytes = rest_.substr(0, size);
        rest_.remove_prefix(size);
        break;
      }
      case 5:
        field.value = fixed(4);
        break;
      default:
        broken("a wire type is unknown");
    }
    return true;
  }

  void expect(const Field& field, uint32_t wire) const {
    if (field.wire != wire) broken("a field has another type than expected");
  }

 private:
  [[noreturn]] void broken(const char* what) const {
    throw FormatError(fmt::format("{}: no valid SentencePiece model: {}", file_, what));
  }
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (rest_.empty()) broken("it ends inside a number");
      const auto byte = static_cast<unsigned char>(rest_.front());
      rest_.remove_prefix(1);
      value |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    broken("a number is longer than 64 bits");
  }
  uint64_t fixed(size_t size) {
    if (rest_.size() < size) broken("it ends inside a number");
    uint64_t value = 0;
    for (size_t i = 0; i < size; ++i) value |= static_cast<uint64_t>(static_cast<unsigned char>(rest_[i])) << (8 * i);
    rest_.remove_prefix(size);
    return value;
  }

  std::string_view rest_;
  const std::string& file_;
};

// The fields that decide how text is cut, with the defaults of sentencepiece_model.proto.
struct Proto {
  std::vector<std::string> pieces;
  std::vector<float> scores;
  std::vector<int32_t> types;
  int64_t model_type = 1;
  int64_t unk = 0, bos = 1, eos = 2, pad = -1;
  bool byte_fallback = false, suffix = false;
  bool add_prefix = true, remove_extra = true, escape = true;
  std::string_view charsmap;
};

int64_t signed_int(uint64_t value) {
  return std::bit_cast<int64_t>(value);
}

void read_piece(std::string_view bytes, const std::string& file, Proto& p) {
  Message m(bytes, file);
  std::string piece;
  float score = 0.0f;
  int32_t type = 1;
  for (Field f; m.next(f);) {
    if (f.number == 1) m.expect(f, 2), piece = f.bytes;
    if (f.number == 2) m.expect(f, 5), score = std::bit_cast<float>(static_cast<uint32_t>(f.value));
    if (f.number == 3) m.expect(f, 0), type = f.value > 6 ? 0 : static_cast<int32_t>(f.value);
  }
  p.pieces.push_back(std::move(piece));
  p.scores.push_back(score);
  p.types.push_back(type);
}

void read_trainer(std::string_view bytes, const std::string& file, Proto& p) {
  Message m(bytes, file);
  for (Field f; m.next(f);) {
    const auto number = [&](int64_t& out) { m.expect(f, 0), out = signed_int(f.value); };
    switch (f.number) {
      case 3:
        number(p.model_type);
        break;
      case 24:
        m.expect(f, 0), p.suffix = f.value != 0;
        break;
      case 35:
        m.expect(f, 0), p.byte_fallback = f.value != 0;
        break;
      case 40:
        number(p.unk);
        break;
      case 41:
        number(p.bos);
        break;
      case 42:
        number(p.eos);
        break;
      case 43:
        number(p.pad);
        break;
      default:
        break;
    }
  }
}

void read_normalizer(std::string_view bytes, const std::string& file, Proto& p) {
  Message m(bytes, file);
  for (Field f; m.next(f);) {
    switch (f.number) {
      case 2:
        m.expect(f, 2), p.charsmap = f.bytes;
        break;
      case 3:
        m.expect(f, 0), p.add_prefix = f.value != 0;
        break;
      case 4:
        m.expect(f, 0), p.remove_extra = f.value != 0;
        break;
      case 5:
        m.expect(f, 0), p.escape = f.value != 0;
        break;
      default:
        break;
    }
  }
}

// Lines of base64 and a rank.
bool is_tiktoken(std::string_view model) {
  const std::string_view line = model.substr(0, std::min(model.find('\n'), model.size()));
  const size_t space = line.find(' ');
  if (space == 0 || space == std::string_view::npos || space + 1 == line.size()) return false;
  return std::all_of(line.begin() + static_cast<std::ptrdiff_t>(space) + 1, line.end(),
                     [](char c) { return (c >= '0' && c <= '9') || c == '\r'; });
}

Proto read_proto(std::string_view model, const std::string& file) {
  // A tiktoken vocabulary is lines of base64 and a rank; a SentencePiece model opens with its first piece, field 1.
  if (const std::string foreign = foreign_file_text(model.substr(0, 512)); !foreign.empty())
    throw FormatError(fmt::format("{}: {}", file, foreign));
  if (!model.starts_with('\x0A')) {
    if (const std::string foreign = foreign_weights_text(model.substr(0, 512)); !foreign.empty() && !is_tiktoken(model))
      throw FormatError(fmt::format("{}: no SentencePiece model: {}", file, foreign));
    throw UnsupportedError(fmt::format(
        "{}: not a SentencePiece model (a tiktoken vocabulary?); put the model's tokenizer.json beside it", file));
  }
  Proto p;
  Message m(model, file);
  for (Field f; m.next(f);) {
    if (f.number == 1 && p.pieces.size() == kMostTokens)
      throw FormatError(
          fmt::format("{}: pieces: expected at most {}, found more; get the file from the model's publisher again",
                      file, counted(kMostTokens, "token")));
    if (f.number == 1) m.expect(f, 2), read_piece(f.bytes, file, p);
    if (f.number == 2) m.expect(f, 2), read_trainer(f.bytes, file, p);
    if (f.number == 3) m.expect(f, 2), read_normalizer(f.bytes, file, p);
  }
  if (p.model_type != 1 && p.model_type != 2)
    throw UnsupportedError(
        fmt::format("{}: a SentencePiece model of type {}; known are 1 (unigram) and 2 (BPE)", file, p.model_type));
  if (p.suffix || !p.escape)
    throw UnsupportedError(
        fmt::format("{}: a SentencePiece model that marks spaces behind words, or not at all, is not supported", file));
  return p;
}

std::string base64(std::string_view bytes) {
  static constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t group = 0;
    for (size_t k = 0; k < 3; ++k)
      group = group << 8 | (i + k < bytes.size() ? static_cast<unsigned char>(bytes[i + k]) : 0u);
    for (size_t k = 0; k < 4; ++k) out += i + k <= bytes.size() ? kDigits[group >> (18 - 6 * k) & 63] : '=';
  }
  return out;
}

// Pieces that transformers marks as special, or as taken whole. Tokens that are no pieces Tokenizer::from_files adds,
// with those of the other files.
void mark_pieces(const Json& config, const std::string& config_file, Proto& p) {
  for (const AddedToken& token : stated_tokens(config, config_file)) {
    const auto id = static_cast<size_t>(*token.id);
    if (id >= p.pieces.size() || p.types[id] != static_cast<int32_t>(TokenType::kNormal) ||
        p.pieces[id] != token.content)
      continue;
    p.types[id] = static_cast<int32_t>(token.special ? TokenType::kControl : TokenType::kUserDefined);
  }
}

std::string text_of(const Json& config, const char* key) {
  const auto it = config.find(key);
  return it != config.end() && it->is_string() ? it->get<std::string>() : std::string();
}

// Which classes of transformers read the pieces by rules of their own.
enum class Rules : uint8_t { kOfTheModel, kLlama, kGemma };

// As transformers 5.24's AutoTokenizer chooses. For some types of models it takes no class that the files name.
Rules rules_of(const Json& tokenizer_config, const Json& model_config) {
  const std::string type = text_of(model_config, "model_type");
  if (type == "mistral" || type == "phi3") return Rules::kOfTheModel;
  std::string name = text_of(tokenizer_config, "tokenizer_class");
  if (name.empty()) name = text_of(model_config, "tokenizer_class");
  if (name.empty() && (type == "gemma2" || type == "gemma3" || type == "gemma3_text")) name = "GemmaTokenizer";
  if (name == "LlamaTokenizer" || name == "LlamaTokenizerFast") return Rules::kLlama;
  if (name == "GemmaTokenizer" || name == "GemmaTokenizerFast") return Rules::kGemma;
  return Rules::kOfTheModel;
}

bool setting(const Json& config, const char* key, bool otherwise) {
  const auto it = config.find(key);
  return it != config.end() && it->is_boolean() ? it->get<bool>() : otherwise;
}

}  // namespace

RebuiltTokenizer tokenizer_from_sentencepiece(std::string_view model, const std::string& file,
                                              const std::string& tokenizer_config_json,
                                              const std::string& config_json) {
  Proto p = read_proto(model, file);
  Json config = Json::object();
  if (!tokenizer_config_json.empty()) {
    const std::filesystem::path beside = std::filesystem::path(file).parent_path() / "tokenizer_config.json";
    config = parse_bounded_object(tokenizer_config_json, beside.string());
    mark_pieces(config, beside.string(), p);
  }
  const auto id = [&](int64_t stated) -> std::optional<int64_t> {
    return stated < 0 || stated >= static_cast<int64_t>(p.pieces.size()) ? std::nullopt
                                                                         : std::optional<int64_t>(stated);
  };
  Vocabulary v =
      checked_vocabulary(p.pieces, p.types, id(p.bos), id(p.eos), p.unk, id(p.pad), file, kSentencePieceNames);
  v.add_bos = setting(config, "add_bos_token", true) && v.bos;
  v.add_eos = setting(config, "add_eos_token", false) && v.eos;

  SentencePieceRules rules;
  rules.unigram = p.model_type == 1;
  using Prefix = SentencePieceRules::Prefix;
  const std::filesystem::path model_config = std::filesystem::path(file).parent_path() / "config.json";
  const Rules kind = rules_of(config, parse_bounded_object(config_json, model_config.string()));
  if (kind == Rules::kOfTheModel) {
    // As SentencePiece does it: a space before each part, unless the config denies "legacy".
    rules.prefix = !p.add_prefix ? Prefix::kNone : setting(config, "legacy", true) ? Prefix::kEachPart : Prefix::kFirst;
  } else {
    // The pieces alone count. LlamaTokenizer sets one space before the text, and after special tokens none, unless the
    // config asks for "legacy"; GemmaTokenizer sets none.
    p.remove_extra = false;
    p.charsmap = {};
    rules.prefix = kind == Rules::kGemma || !setting(config, "add_prefix_space", true) ? Prefix::kNone
                   : setting(config, "legacy", false)                                  ? Prefix::kEachPartOnce
                                                                                       : Prefix::kFirst;
  }
  rules.byte_fallback = p.byte_fallback;
  rules.remove_extra_spaces = p.remove_extra;
  rules.precompiled_charsmap = base64(p.charsmap);
  rules.scores = p.scores;
  std::string text = sentencepiece_text(v, rules, file, kSentencePieceNames);
  const Json filled = tokenizer_config(v);
  for (const auto& [key, value] : filled.items())
    if (key != "tokenizer_class" && !config.contains(key)) config[key] = value;
  return {std::move(text), config.dump(), generation_config(v).dump(2), {}};
}

}  // namespace metal_marlin

#include "statistics/model_identity.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <span>

#include "core/counted.h"
#include "core/files/digest.h"
#include "formats/json/bounded_json.h"
#include "formats/text.h"

namespace metal_marlin {
namespace {

using nlohmann::json;

constexpr const char* kKey = "metal_marlin.model";
constexpr int64_t kRows = 2;                    // rows of each tensor
constexpr size_t kEarlierDigits = 16;           // of a digest in files of version 0.2 and before
constexpr int64_t kLargest = int64_t{1} << 16;  // bytes of the stored text

// FNV-1a, 64 bits.
struct EarlierDigest {
  uint64_t state = 0xcbf29ce484222325u;
  void add(std::span<const std::byte> bytes) {
    for (const std::byte b : bytes) state = (state ^ std::to_integer<uint64_t>(b)) * 0x100000001b3u;
  }
};

// "model", of a snapshot in the Hugging Face cache "org/model".
std::string name_of(const std::string& path) {
  const std::filesystem::path p(path);
  for (const auto& part : p) {
    const std::string folder = part.string();
    if (!folder.starts_with("models--")) continue;
    std::string id = folder.substr(8);
    if (const size_t dashes = id.find("--"); dashes != std::string::npos) id.replace(dashes, 2, "/");
    return id;
  }
  return (p.has_filename() ? p : p.parent_path()).filename().string();
}

}  // namespace

std::string ModelIdentity::text() const {
  return fmt::format("{} ({}, {}, hidden {}, vocabulary {}, digest {})", name, family, counted(layers, "layer"),
                     hidden_size, vocabulary, digest);
}

bool ModelIdentity::same_model(const ModelIdentity& other) const {
  return family == other.family && hidden_size == other.hidden_size && layers == other.layers &&
         vocabulary == other.vocabulary && digest == other.digest;
}

ModelIdentity identify_model(const ModelSource& source, DigestKind kind) {
  const ModelConfig& c = source.config();
  ModelIdentity id{
      name_of(source.path()), source.family().name, c.hidden_size, c.num_hidden_layers, c.vocab_size, "", {}};
  id.settings = {{"rope_theta", c.rope.theta},
                 {"rms_norm_eps", c.rms_norm_eps},
                 {"num_attention_heads", static_cast<double>(c.num_attention_heads)},
                 {"num_key_value_heads", static_cast<double>(c.num_key_value_heads)},
                 {"head_dim", static_cast<double>(c.head_dim)}};
  Digester digester;
  EarlierDigest earlier;
  const auto add = [&](const std::string& name, int64_t first_row, int64_t rows) {
    const Matrix m = source.load(name, first_row, rows);
    const auto values = std::as_bytes(m.values());
    if (kind == DigestKind::kEarlier) {
      earlier.add(std::as_bytes(std::span(name)));
      earlier.add(values);
    } else {
      digester.add_text(name);
      digester.add(values);
    }
    source.release(name);
  };
  add(source.family().embedding, c.vocab_size / 2, std::min(kRows, c.vocab_size - c.vocab_size / 2));
  for (const int64_t layer : std::set<int64_t>{0, c.num_hidden_layers / 2, c.num_hidden_layers - 1}) {
    for (const LinearSlot& slot : source.linears(layer)) add(slot.weight, slot.first_row, std::min(kRows, slot.rows));
  }
  id.digest = kind == DigestKind::kEarlier ? fmt::format("{:016x}", earlier.state) : digester.result().text();
  return id;
}

OwnedTensor identity_array(const ModelIdentity& id) {
  const json j = {{"name", id.name},
                  {"family", id.family},
                  {"hidden_size", id.hidden_size},
                  {"num_hidden_layers", id.layers},
                  {"vocab_size", id.vocabulary},
                  {"digest", id.digest},
                  {"settings", id.settings}};
  const std::string text = j.dump(-1, ' ', true, json::error_handler_t::replace);
  OwnedTensor array{kKey, DType::kU8, {static_cast<int64_t>(text.size())}, Buffer(text.size())};
  std::memcpy(array.bytes.data(), text.data(), text.size());
  return array;
}

bool is_statistics(const NpzFile& file) {
  return file.contains(kKey);
}

void check_identity(const NpzFile& file, const ModelSource& source) {
  if (!file.contains(kKey)) return;
  const auto broken = [&](const std::string& why) {
    throw FormatError(fmt::format("{}: {}: {}; calibrate again", file.path(), kKey, why));
  };
  const NpyHeader header = file.header(kKey);
  if (header.dtype != DType::kU8 || header.shape.size() != 1 || header.elements() > kLargest)
    broken("expected JSON as u8 [n]");
  const OwnedTensor array = file.load(kKey);
  const json j = parse_json_or_discard({reinterpret_cast<const char*>(array.bytes.data()), array.bytes.size()});
  ModelIdentity stored;
  for (const auto& [key, to] :
       {std::pair{"name", &stored.name}, std::pair{"family", &stored.family}, std::pair{"digest", &stored.digest}}) {
    if (!j.is_object() || !j.contains(key) || !j[key].is_string())
      broken(fmt::format("expected an object with the text \"{}\"", key));
    *to = j[key].get<std::string>();
  }
  for (const auto& [key, to] :
       {std::pair{"hidden_size", &stored.hidden_size}, std::pair{"num_hidden_layers", &stored.layers},
        std::pair{"vocab_size", &stored.vocabulary}}) {
    if (!j.contains(key) || !j[key].is_number_integer())
      broken(fmt::format("expected an object with the number \"{}\"", key));
    *to = j[key].get<int64_t>();
  }
  if (j.contains("settings")) {
    if (!j["settings"].is_object()) broken("settings: expected an object");
    for (const auto& [key, value] : j["settings"].items()) {
      if (!value.is_number()) broken(fmt::format("settings: {}: expected a number", escaped(key)));
      stored.settings[key] = value.get<double>();
    }
  }
  const ModelIdentity own =
      identify_model(source, stored.digest.size() == kEarlierDigits ? DigestKind::kEarlier : DigestKind::kToday);
  if (!stored.same_model(own)) {
    throw FormatError(fmt::format(
        "{}: expected statistics of this model, {}, found those of {}; calibrate this model, or name the other",
        file.path(), own.text(), stored.text()));
  }
  for (const auto& [key, value] : own.settings) {
    const auto it = stored.settings.find(key);
    if (it == stored.settings.end() || static_cast<float>(it->second) == static_cast<float>(value)) continue;
    throw FormatError(
        fmt::format("{}: its statistics are of a model with {} {}, expected those of {}, which has {}; calibrate again",
                    file.path(), key, it->second, source.path(), value));
  }
}

}  // namespace metal_marlin

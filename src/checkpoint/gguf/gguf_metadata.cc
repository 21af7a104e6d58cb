#include "checkpoint/gguf/gguf_metadata.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <filesystem>
#include <iterator>
#include <nlohmann/json.hpp>
#include <utility>
#include <variant>

#include "checkpoint/gguf/gguf_parts.h"
#include "checkpoint/gguf/gguf_tokenizer_keys.h"
#include "core/files/file_status.h"
#include "families/gguf_defaults.h"
#include "formats/gguf/gguf_set.h"
#include "formats/gguf/gguf_split.h"
#include "formats/text.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/tokenizer_files.h"
#include "tokenizer/vocabulary/gguf_vocabulary.h"

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;

constexpr uint32_t kQuantizationVersion = 2;  // GGML_QNT_VERSION of llama.cpp
// Of all keys of a GGUF source. The largest tokenizers take some 20 MiB.
constexpr uint64_t kMostKeyBytes = uint64_t{256} << 20;

// "1.5B", as gguf-py's model_weight_count_rounded_notation rounds: at least two digits.
std::string size_label(const std::vector<GgufPart>& parts) {
  double count = 0;
  for (const GgufPart& part : parts) {
    double elements = 1;
    for (const int64_t d : part.shape) elements *= static_cast<double>(d);
    count += elements;
  }
  const auto [scaled, suffix] = count > 1e12  ? std::pair(count * 1e-12, 'T')
                                : count > 1e9 ? std::pair(count * 1e-9, 'B')
                                : count > 1e6 ? std::pair(count * 1e-6, 'M')
                                              : std::pair(count * 1e-3, 'K');
  const std::string whole = fmt::format("{:.0f}", scaled);
  const size_t digits = whole == "0" ? 0 : whole.size();
  return fmt::format("{:.{}f}{}", scaled, digits < 2 ? 2 - digits : 0, suffix);
}

// "SmolLM2-135M" of .../models--HuggingFaceTB--SmolLM2-135M/snapshots/0123abcd, else the folder's name.
std::string name_of(const ModelSource& source) {
  fs::path path = absolute_path(source.path()).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  if (!is_folder(path)) path = path.parent_path();
  if (path.parent_path().filename() == "snapshots") {
    const std::string repository = path.parent_path().parent_path().filename().string();
    const size_t dashes = repository.rfind("--");
    if (repository.starts_with("models--") && dashes != std::string::npos) return repository.substr(dashes + 2);
  }
  return path.filename().string();
}

std::string folder_of_model(const std::string& path) {
  if (is_folder(path)) return path;
  const fs::path parent = fs::path(path).parent_path();
  return parent.empty() ? "." : parent.string();
}

void move_to(std::vector<GgufPair> from, std::vector<GgufPair>& to) {
  std::move(from.begin(), from.end(), std::back_inserter(to));
}

// An id that the config names and the tokenizer's files do not.
std::optional<int64_t> id_of_config(const nlohmann::json& config, const char* key, int64_t rows) {
  const auto it = config.find(key);
  if (it == config.end() || !it->is_number_integer()) return std::nullopt;
  const auto id = it->get<int64_t>();
  return id >= 0 && id < rows ? std::optional(id) : std::nullopt;
}

std::vector<GgufPair> tokenizer_pairs(const ModelSource& source, std::vector<std::string>& warnings) {
  const std::string folder = folder_of_model(source.path());
  const int64_t rows = source.config().vocab_size;
  GgufVocabulary vocabulary = gguf_vocabulary(read_tokenizer_files(folder), source.tokenizer(), rows, folder);
  std::move(vocabulary.warnings.begin(), vocabulary.warnings.end(), std::back_inserter(warnings));
  GgufTokenizerData& d = vocabulary.data;
  // llama.cpp takes token 11 for what is not named.
  const nlohmann::json& config = source.config_json();
  if (!d.bos) d.bos = id_of_config(config, "bos_token_id", rows);
  if (!d.eos) d.eos = id_of_config(config, "eos_token_id", rows);
  if (!d.pad) d.pad = id_of_config(config, "pad_token_id", rows);
  return gguf_tokenizer_pairs(d);
}

bool speaks_of_the_file(std::string_view key) {
  return key == "general.file_type" || key == "general.quantization_version" || key == kAlignmentKey ||
         key == "general.architecture" || key.starts_with("quantize.") || key.starts_with("split.");
}

uint64_t stored_bytes(const GgufValue& value) {
  if (const auto* numbers = std::get_if<GgufNumbers>(&value.value)) return numbers->bytes.size();
  if (const auto* strings = std::get_if<GgufStrings>(&value.value)) return strings->bytes.size();
  if (const auto* text = std::get_if<std::string>(&value.value)) return text->size();
  return sizeof(uint64_t);
}

// The keys of the first file, those of its tokenizer last.
GgufKeys of_gguf(const GgufSet& set, const GgufMetadataOptions& options) {
  GgufKeys out;
  uint64_t bytes = 0;
  set.files().front().mapped().checked([&] {
    const auto& pairs = set.metadata().pairs();
    out.pairs.push_back(gguf_copy("general.architecture", pairs.find("general.architecture")->second));
    for (const bool tokenizer : {false, true}) {
      for (const auto& [key, value] : pairs) {
        if (key.starts_with("tokenizer.") != tokenizer || speaks_of_the_file(key)) continue;
        if (key == "general.name" && !options.name.empty()) continue;
        bytes += stored_bytes(value);
        if (bytes > kMostKeyBytes)
          throw FormatError(fmt::format("{}: expected keys of at most {} MiB together, found {} that exceeds it",
                                        set.path(), kMostKeyBytes >> 20, shown(key)));
        out.pairs.push_back(gguf_copy(key, value));
      }
    }
    return true;
  });
  if (!options.name.empty()) out.pairs.push_back(gguf_pair<std::string_view>("general.name", options.name));
  return out;
}

GgufKeys of_folder(const ModelSource& source, const GgufMetadataOptions& options) {
  GgufKeys own = gguf_architecture_keys(source);
  GgufKeys out;
  out.warnings = std::move(own.warnings);
  out.pairs.push_back(std::move(own.pairs.front()));  // general.architecture
  own.pairs.erase(own.pairs.begin());
  out.pairs.push_back(gguf_pair<std::string_view>("general.type", "model"));
  out.pairs.push_back(
      gguf_pair<std::string_view>("general.name", options.name.empty() ? name_of(source) : options.name));
  out.pairs.push_back(gguf_pair<std::string_view>("general.size_label", size_label(gguf_parts(source))));
  move_to(std::move(own.pairs), out.pairs);
  move_to(tokenizer_pairs(source, out.warnings), out.pairs);
  return out;
}

}  // namespace

GgufKeys gguf_metadata(const ModelSource& source, const GgufMetadataOptions& options) {
  GgufKeys out = source.gguf() != nullptr ? of_gguf(*source.gguf(), options) : of_folder(source, options);
  out.pairs.push_back(gguf_pair<uint32_t>("general.file_type", options.file_type));
  out.pairs.push_back(gguf_pair<uint32_t>("general.quantization_version", kQuantizationVersion));
  return out;
}

}  // namespace metal_marlin

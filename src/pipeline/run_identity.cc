#include "pipeline/run_identity.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <metal_marlin/version.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <vector>

#include "calibrate/builtin_text.h"
#include "core/machine.h"
#include "core/mapped_file.h"
#include "formats/text.h"
#include "pipeline/ignored_options.h"
#include "pipeline/mixed_bits.h"
#include "pipeline/report_words.h"
#include "pipeline/texts.h"
#include "source/model_source.h"

namespace metal_marlin {
namespace {

// Texts whole; of a large file of statistics or activations size, time and both ends.
uint64_t file_digest(const std::string& path) {
  const MappedFile file(path);
  return file.checked([&] {
    const auto bytes = file.bytes();
    constexpr size_t kWhole = size_t{256} << 20;
    constexpr size_t kEnd = size_t{1} << 20;
    if (bytes.size() <= kWhole || std::filesystem::path(path).extension() != ".npz") {
      uint64_t digest = fnv1a(nullptr, 0);
      // Piece by piece, so that a large text does not fill memory.
      constexpr size_t kPiece = size_t{4} << 20;
      for (size_t at = 0; at < bytes.size(); at += kPiece) {
        const auto piece = bytes.subspan(at, std::min(kPiece, bytes.size() - at));
        digest = fnv1a(piece.data(), piece.size(), digest);
        file.release(piece);
      }
      return digest;
    }
    const uint64_t head = fnv1a(bytes.data(), kEnd, fnv1a(nullptr, 0) + bytes.size());
    const int64_t time = file.identity().changed_ns;
    return fnv1a(bytes.data() + bytes.size() - kEnd, kEnd, fnv1a(&time, sizeof time, head));
  });
}

}  // namespace

nlohmann::json run_identity(const QuantizeOptions& options, const Recipe& recipe, const ModelSource& source) {
  nlohmann::json j = options_json(options, recipe);
  if (!chooses_by_limit(options)) j.erase("max_kl");  // judges the result, does not shape it
  j.erase("group_size_option");                       // "auto" is the size that it stands for
  // A text is what it says, wherever it lies: its digest stands for it. How its name ends tells how it is read.
  const auto kind_of_file = [](const std::string& path) {
    const std::string end = std::filesystem::path(path).extension().string();
    return end == ".npz" || end == ".jsonl" ? end : std::string("text");
  };
  for (nlohmann::json& name : j["calibration"]) {
    if (is_file(source_kind(name.get<std::string>()))) name = kind_of_file(name.get<std::string>());
  }
  const bool evaluates_file = !options.evaluation.text.empty() && options.evaluation.text != "none";
  if (evaluates_file) j["evaluate"] = kind_of_file(options.evaluation.text);
  for (const IgnoredOption& ignored : ignored_options(options, recipe)) {
    std::string key = ignored.name;
    std::replace(key.begin(), key.end(), '-', '_');
    j.erase(key);
  }
  if (options.calibration.calibration.size() < 2) j.erase("calibration_weights");  // given or not
  const auto hex = [](uint64_t digest) { return fmt::format("{:016x}", digest); };
  nlohmann::json texts = nlohmann::json::array();
  bool builtin = builtin_sequences(options) > 0;
  for (const std::string& name : options.calibration.calibration) {
    const SourceKind kind = source_kind(name);
    if (is_file(kind)) texts.push_back(hex(file_digest(name)));
    builtin = builtin || kind == SourceKind::kBuiltin;
  }
  if (evaluates_file) texts.push_back(hex(file_digest(options.evaluation.text)));
  if (builtin) texts.push_back("builtin " + hex(fnv1a(builtin_text().data(), builtin_text().size())));
  return {{"version", version()},
          {"model", {{"path", source.path()}, {"digest", hex(source.digest())}}},
          {"options", std::move(j)},
          {"texts", std::move(texts)}};
}

uint64_t run_fingerprint(const nlohmann::json& identity) {
  nlohmann::json counted = identity;
  counted["model"].erase("path");
  const std::string text = counted.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  return fnv1a(text.data(), text.size());
}

std::string identity_difference(const nlohmann::json& before, const nlohmann::json& now) {
  using nlohmann::json;
  constexpr size_t kNamed = 4;
  constexpr size_t kLongest = 80;
  const auto at = [](const json& j, const char* pointer) {
    const json::json_pointer place(pointer);
    return j.is_object() && j.contains(place) ? j.at(place) : json();
  };
  const auto value = [](const json& j) {
    if (j.is_null()) return std::string("none");
    std::string text = j.is_string() ? j.get<std::string>() : j.dump(-1, ' ', true, json::error_handler_t::replace);
    if (text.size() > kLongest) text = text.substr(0, kLongest) + "...";
    // Plain names and numbers are shown as they are. A stranger may have written the report: the rest is escaped.
    const bool plain = std::all_of(text.begin(), text.end(), [](char c) { return c >= ' ' && c <= '~'; });
    return plain ? text : shown(text);
  };
  std::vector<std::string> parts;
  const json old_options = at(before, "/options");
  const json& new_options = now.at("options");
  std::vector<std::string> keys = {"method", "effort", "scheme", "bits", "group_size", "formats", "skip"};
  for (const auto& [key, unused] : new_options.items()) {
    if (std::find(keys.begin(), keys.end(), key) == keys.end()) keys.push_back(key);
  }
  for (const std::string& key : keys) {
    if (!old_options.is_object() || !new_options.contains(key)) continue;
    const json old = old_options.contains(key) ? old_options[key] : json();
    if (old == new_options[key]) continue;
    std::string option = key == "formats" ? "format" : key;
    std::replace(option.begin(), option.end(), '_', '-');
    parts.push_back(fmt::format("--{}: {} then, {} now", option, value(old), value(new_options[key])));
  }
  if (parts.size() > kNamed) {
    const size_t more = parts.size() - kNamed;
    parts.resize(kNamed);
    parts.push_back(fmt::format("{} more options", more));
  }
  if (const json old = at(before, "/version"); old != now.at("version"))
    parts.push_back(fmt::format("version: {} then, {} now", value(old), value(now.at("version"))));
  if (const json digest = at(before, "/model/digest"); !digest.is_null() && digest != now.at("model").at("digest")) {
    const json old = at(before, "/model/path");
    const auto path = now.at("model").at("path").get<std::string>();
    parts.push_back(old == path || old == published_path(path)  // the latter in a report
                        ? std::string("the model has changed since")
                        : fmt::format("model: {} then, {} now", value(old), value(now.at("model").at("path"))));
  }
  if (const json texts = at(before, "/texts"); !texts.is_null() && texts != now.at("texts"))
    parts.push_back("the texts hold something else");
  return parts.empty() ? "of an earlier version, which did not note its options"
                       : fmt::format("{}", fmt::join(parts, "; "));
}

}  // namespace metal_marlin

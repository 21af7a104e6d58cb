#include "pipeline/run_identity.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <metal_marlin/version.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <vector>

#include "calibrate/builtin_text.h"
#include "core/counted.h"
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
          {"texts", std::move(texts)},
          {"given", options.given}};
}

uint64_t run_fingerprint(const nlohmann::json& identity) {
  nlohmann::json facts = identity;
  facts["model"].erase("path");
  facts.erase("given");
  const std::string text = facts.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  return fnv1a(text.data(), text.size());
}

namespace {

using nlohmann::json;

// What follows from the method, or from another option, where no option says otherwise.
constexpr const char* kOfMethod[] = {"range",          "clip",
                                     "signed_scales",  "scale_search",
                                     "error_feedback", "refine",
                                     "guard",          "awq_loss",
                                     "act_order",      "builtin_share",
                                     "damping",        "activation_method",
                                     "salient_ratio",  "first_token_weight",
                                     "samples"};

bool differs(const json& a, const json& b, const std::string& key) {
  return a.contains(key) && b.contains(key) && a[key] != b[key];
}

std::string option_of(const std::string& key) {
  std::string option = key == "formats" ? "format" : key;
  std::replace(option.begin(), option.end(), '_', '-');
  return option;
}

bool given(const json& identity, const std::string& key) {
  const json names = identity.is_object() ? identity.value("given", json::array()) : json::array();
  return std::find(names.begin(), names.end(), json(option_of(key))) != names.end();
}

// A value as the command takes it. A stranger may have written the report: what is not plain is escaped.
std::string value_text(const json& j) {
  constexpr size_t kLongest = 80;
  if (j.is_null()) return "none";
  if (j.is_boolean()) return j.get<bool>() ? "on" : "off";
  std::string text;
  if (j.is_array()) {
    for (const json& item : j) text += (text.empty() ? "" : ",") + value_text(item);
    if (text.empty()) return "none";
  } else {
    text = j.is_string() ? j.get<std::string>() : j.dump(-1, ' ', true, json::error_handler_t::replace);
  }
  if (text.empty()) return "none";
  if (text.size() > kLongest) text = text.substr(0, kLongest) + "...";
  const bool plain = std::all_of(text.begin(), text.end(), [](char c) { return c >= ' ' && c <= '~'; });
  return plain ? text : shown(text);
}

// "--scheme sym there, asym now".
std::string option_difference(const std::string& key, const json& old, const json& now) {
  const std::string option = option_of(key);
  const auto text = [&](const json& options) {
    const json& value = options[key];
    if (key == "bits" && options.value("mixed_bits", json(false)) == true) return std::string("mixed");
    if (key == "evaluate" && value == "") return std::string("the held-back text");
    if (key == "evaluate" && value == "text") return std::string("a text file");
    if (key != "calibration" || !value.is_array()) return value_text(value);
    std::string sources;
    for (const json& source : value)
      sources += (sources.empty() ? "" : ", ") + (source == "text" ? std::string("a text file") : value_text(source));
    return sources;
  };
  if (key == "act_order") {
    const auto flag = [](const json& on) { return on == true ? "--act-order" : "--no-act-order"; };
    return fmt::format("{} there, {} now", flag(old[key]), flag(now[key]));
  }
  return fmt::format("--{} {} there, {} now", option, text(old), text(now));
}

std::vector<std::string> option_differences(const json& before, const json& now, bool same_model) {
  const json old = before.is_object() ? before.value("options", json::object()) : json::object();
  const json& options = now.at("options");
  std::vector<std::string> parts;
  if (!old.is_object()) return parts;
  std::vector<std::string> following;
  std::vector<std::string> keys = {"method",      "effort",     "scheme",  "bits",
                                   "target_bits", "group_size", "formats", "skip"};
  for (const auto& [key, unused] : options.items()) {
    if (std::find(keys.begin(), keys.end(), key) == keys.end()) keys.push_back(key);
  }
  for (const std::string& key : keys) {
    // Where only one of the two runs has the option, something else makes it of use there, and that is named.
    const bool bits = key == "bits" && differs(old, options, "mixed_bits") && !differs(old, options, "target_bits");
    if (key == "mixed_bits" || !old.contains(key) || !options.contains(key)) continue;
    if (!bits && old[key] == options[key]) continue;
    const bool chosen = given(before, key) || given(now, key);
    const bool of_method = std::find(std::begin(kOfMethod), std::end(kOfMethod), key) != std::end(kOfMethod);
    const bool follows = !chosen && (of_method || (key == "group_size" && !same_model));
    (follows ? following : parts).push_back(option_difference(key, old, options));
  }
  return parts.empty() && same_model ? following : parts;
}

}  // namespace

std::string identity_difference(const json& before, const json& now) {
  constexpr size_t kNamed = 4;
  const auto at = [](const json& j, const char* pointer) {
    const json::json_pointer place(pointer);
    return j.is_object() && j.contains(place) ? j.at(place) : json();
  };
  const json digest = at(before, "/model/digest");
  const bool same_model = digest.is_null() || digest == now.at("model").at("digest");
  std::vector<std::string> parts = option_differences(before, now, same_model);
  if (parts.size() > kNamed) {
    const size_t more = parts.size() - kNamed;
    parts.resize(kNamed);
    parts.push_back(counted(more, "more option"));
  }
  if (const json old = at(before, "/version"); old != now.at("version"))
    parts.push_back(fmt::format("made by version {}, this is {}", old.is_null() ? "unknown" : value_text(old),
                                value_text(now.at("version"))));
  if (!same_model) {
    const json old = at(before, "/model/path");
    const auto path = now.at("model").at("path").get<std::string>();
    parts.push_back(old == path || old == published_path(path)  // the latter in a report
                        ? std::string("the model has changed since")
                        : fmt::format("the model {} there, {} now", value_text(old), value_text(json(path))));
  }
  const json old_texts = at(before, "/texts");
  const bool other_texts = !old_texts.is_null() && old_texts != now.at("texts");
  const auto same_option = [&](const char* place) { return at(before, place) == at(now, place); };
  if (other_texts && (parts.empty() || (same_option("/options/calibration") && same_option("/options/evaluate"))))
    parts.push_back("the texts hold something else");
  return parts.empty() ? "of an earlier version, which did not note its options"
                       : fmt::format("{}", fmt::join(parts, "; "));
}

}  // namespace metal_marlin

#include "run/run_identity.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <metal_marlin/version.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <vector>

#include "checkpoint/model_source.h"
#include "core/counted.h"
#include "core/files/digest.h"
#include "core/files/mapped_file.h"
#include "formats/text.h"
#include "mixed/mixed_bits.h"
#include "options/tables.h"
#include "recipe/ignored_options.h"
#include "recipe/option_values.h"
#include "records/json_records.h"
#include "records/options.h"
#include "report/render/report_words.h"
#include "text/builtin_text.h"
#include "text/texts.h"

namespace metal_marlin {
namespace {

// Texts whole; of a large file of statistics or activations size, time and both ends.
std::string file_digest(const std::string& path) {
  const MappedFile file(path);
  return file.checked([&] {
    const auto bytes = file.bytes();
    constexpr size_t kWhole = size_t{256} << 20;
    constexpr size_t kEnd = size_t{1} << 20;
    Digester digester;
    if (bytes.size() <= kWhole || std::filesystem::path(path).extension() != ".npz") {
      // Piece by piece, so that a large text does not fill memory.
      constexpr size_t kPiece = size_t{4} << 20;
      for (size_t at = 0; at < bytes.size(); at += kPiece) {
        const auto piece = bytes.subspan(at, std::min(kPiece, bytes.size() - at));
        digester.add(piece);
        file.release(piece);
      }
    } else {
      digester.add_number(bytes.size());
      digester.add_number(static_cast<uint64_t>(file.identity().changed_ns));
      digester.add(bytes.first(kEnd));
      digester.add(bytes.last(kEnd));
    }
    return digester.result().text();
  });
}

}  // namespace

IdentityRecord run_identity(const QuantizeOptions& options, const Recipe& recipe, const ModelSource& source) {
  IdentityRecord out;
  OptionValues& values = out.options;
  values = option_values(options, recipe);
  for (const auto& row : quantize_options().rows()) {
    if (row.shapes != Shapes::kResult && !(row.key == "max_kl" && chooses_by_limit(options))) values.erase(row.key);
  }
  values.erase("group_size_option");  // "auto" is the size that it stands for
  // A text is what it says, wherever it lies: its digest stands for it. How its name ends tells how it is read.
  const auto kind_of_file = [](const std::string& path) {
    const std::string end = std::filesystem::path(path).extension().string();
    return end == ".npz" || end == ".gguf" || end == ".jsonl" ? end : std::string("text");
  };
  std::vector<std::string> sources = options.calibration.calibration;
  for (std::string& name : sources) {
    if (is_file(source_kind(name))) name = kind_of_file(name);
  }
  values["calibration"] = sources;
  const bool evaluates_file = names_text(options.evaluation);
  if (evaluates_file) values["evaluate"] = kind_of_file(options.evaluation.text);
  for (const IgnoredOption& ignored : ignored_options(options)) {
    if (ignored.key != "builtin_share") values.erase(ignored.key);  // which is 0 where it has no effect
  }
  if (options.calibration.calibration.size() < 2) values.erase("calibration_weights");  // given or not
  bool builtin = builtin_sequences(options) > 0;
  for (const std::string& name : options.calibration.calibration) {
    const SourceKind kind = source_kind(name);
    if (is_file(kind)) out.texts.push_back(file_digest(name));
    builtin = builtin || kind == SourceKind::kBuiltin;
  }
  if (evaluates_file) out.texts.push_back(file_digest(options.evaluation.text));
  if (builtin) out.texts.push_back("builtin " + digest_of(builtin_text()).text());
  out.version = version();
  out.model = {source.path(), source.digest().text()};
  const QuantizeOptions defaults;
  for (const auto& row : quantize_options().rows()) {
    if (!row.name.empty() && row.get(options) != row.get(defaults)) out.given.push_back(row.name);
  }
  return out;
}

std::string run_fingerprint(const IdentityRecord& identity) {
  nlohmann::json facts = json_of(identity);
  facts["model"].erase("path");
  facts.erase("given");
  return digest_of(facts.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)).text();
}

namespace {

bool differs(const OptionValues& a, const OptionValues& b, const std::string& key) {
  return a.contains(key) && b.contains(key) && a.at(key) != b.at(key);
}

// "linear-bits" of "linear_bits", which is an option of quantize_model.
std::string option_name(const std::string& key) {
  const auto* row = quantize_options().find(key);
  return row != nullptr ? row->name : std::string();
}

bool given(const IdentityRecord& identity, const std::string& key) {
  return std::find(identity.given.begin(), identity.given.end(), option_name(key)) != identity.given.end();
}

// A text as the command takes it. A stranger may have written the report: what is not plain is escaped.
std::string plain_text(std::string text) {
  constexpr size_t kLongest = 80;
  if (text.empty()) return "none";
  if (text.size() > kLongest) text = text.substr(0, kLongest) + "...";
  const bool plain = std::all_of(text.begin(), text.end(), [](char c) { return c >= ' ' && c <= '~'; });
  return plain ? text : shown(text);
}

// A value as the command takes it.
std::string value_text(const OptionValue& value) {
  const auto joined = [](const auto& list, const auto& text_of) {
    std::string text;
    for (const auto& entry : list) text += (text.empty() ? "" : ",") + text_of(entry);
    return text;
  };
  const auto number_text = [](double number) { return json_of(OptionValue(number)).dump(); };
  if (const auto* on = std::get_if<bool>(&value)) return *on ? "on" : "off";
  if (const auto* text = std::get_if<std::string>(&value)) return plain_text(*text);
  if (const auto* texts = std::get_if<std::vector<std::string>>(&value)) return plain_text(joined(*texts, plain_text));
  if (const auto* numbers = std::get_if<std::vector<double>>(&value)) return plain_text(joined(*numbers, number_text));
  return std::holds_alternative<std::monostate>(value) ? "none" : json_of(value).dump();
}

// "--scheme sym there, asym now".
std::string option_difference(const std::string& key, const OptionValues& old, const OptionValues& now) {
  const auto text = [&](const OptionValues& options) {
    const OptionValue& value = options.at(key);
    if (key == "bits" && option<bool>(options, "mixed_bits") == true) return std::string("mixed");
    if (key == "evaluate" && value == OptionValue(std::string())) return std::string("the held-back text");
    if (key == "evaluate" && value == OptionValue(std::string("text"))) return std::string("a text file");
    const auto* list = std::get_if<std::vector<std::string>>(&value);
    if (key != "calibration" || list == nullptr) return value_text(value);
    std::string sources;
    for (const std::string& source : *list)
      sources += (sources.empty() ? "" : ", ") + (source == "text" ? std::string("a text file") : plain_text(source));
    return sources;
  };
  if (key == "act_order") {
    const auto flag = [](const OptionValues& options) {
      return option<bool>(options, "act_order") == true ? "--act-order" : "--no-act-order";
    };
    return fmt::format("{} there, {} now", flag(old), flag(now));
  }
  return fmt::format("--{} {} there, {} now", option_name(key), text(old), text(now));
}

std::vector<std::string> option_differences(const IdentityRecord& before, const IdentityRecord& now, bool same_model) {
  const OptionValues& old = before.options;
  const OptionValues& options = now.options;
  std::vector<std::string> parts;
  std::vector<std::string> following;
  std::vector<std::string> keys = {"method",      "effort",     "scheme",  "bits",
                                   "target_bits", "group_size", "formats", "skip"};
  for (const auto& [key, unused] : options) {
    if (std::find(keys.begin(), keys.end(), key) == keys.end()) keys.push_back(key);
  }
  for (const std::string& key : keys) {
    // Where only one of the two runs has the option, something else makes it of use there, and that is named.
    const bool bits = key == "bits" && differs(old, options, "mixed_bits") && !differs(old, options, "target_bits");
    if (key == "mixed_bits" || !old.contains(key) || !options.contains(key)) continue;
    if (!bits && old.at(key) == options.at(key)) continue;
    const bool chosen = given(before, key) || given(now, key);
    const auto* row = quantize_options().find(key);
    const bool of_method = row != nullptr && row->of_method;
    const bool follows = !chosen && (of_method || (key == "group_size" && !same_model));
    (follows ? following : parts).push_back(option_difference(key, old, options));
  }
  return parts.empty() && same_model ? following : parts;
}

bool same_option(const IdentityRecord& before, const IdentityRecord& now, const std::string& key) {
  const auto a = before.options.find(key);
  const auto b = now.options.find(key);
  if (a == before.options.end() || b == now.options.end()) return a == before.options.end() && b == now.options.end();
  return a->second == b->second;
}

}  // namespace

std::string identity_difference(const std::optional<IdentityRecord>& old, const IdentityRecord& now) {
  constexpr size_t kNamed = 4;
  const IdentityRecord before = old.value_or(IdentityRecord());
  // Earlier versions noted digests of 64 bits by another function.
  const bool comparable = before.model.digest.empty() || before.model.digest.size() == Digest::kDigits;
  const bool same_path =
      before.model.path == now.model.path || before.model.path == published_path(now.model.path);  // as in a report
  const bool same_model =
      before.model.digest.empty() || (comparable ? before.model.digest == now.model.digest : same_path);
  std::vector<std::string> parts = option_differences(before, now, same_model);
  if (parts.size() > kNamed) {
    const size_t more = parts.size() - kNamed;
    parts.resize(kNamed);
    parts.push_back(counted(more, "more option"));
  }
  if (before.version != now.version)
    parts.push_back(fmt::format("made by version {}, this is {}",
                                before.version.empty() ? "unknown" : plain_text(before.version), now.version));
  if (!same_model) {
    parts.push_back(same_path ? std::string("the model has changed since")
                              : fmt::format("the model {} there, {} now", plain_text(before.model.path),
                                            plain_text(now.model.path)));
  }
  if (!comparable) parts.push_back("of an earlier version, whose digests of model and texts tell this one nothing");
  const bool other_texts = comparable && !before.version.empty() && before.texts != now.texts;
  if (other_texts &&
      (parts.empty() || (same_option(before, now, "calibration") && same_option(before, now, "evaluate"))))
    parts.push_back("the texts hold something else");
  return parts.empty() ? "of an earlier version, which did not note its options"
                       : fmt::format("{}", fmt::join(parts, "; "));
}

}  // namespace metal_marlin

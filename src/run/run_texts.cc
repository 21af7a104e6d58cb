#include "run/run_texts.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/files/atomic_file.h"
#include "core/files/held_folder.h"
#include "formats/json/bounded_json.h"
#include "formats/text.h"
#include "records/json_records.h"

namespace metal_marlin {
namespace {

using nlohmann::json;

std::string texts_path(const Journal& journal) {
  return (std::filesystem::path(journal.folder()) / "texts.json").string();
}

}  // namespace

void store_texts(Journal& journal, const RunTexts& texts, std::span<const std::string> warnings) {
  // Before the tokens: a resumed run takes tokens only when this file is there.
  const json facts{{"held_back_source", texts.held_back_source},
                   {"calibration", json_of(texts.record)},
                   {"warnings", std::vector<std::string>(warnings.begin(), warnings.end())}};
  write_text_file(texts_path(journal), facts.dump(-1, ' ', false, json::error_handler_t::replace));
  journal.write_tokens(texts.calibration, texts.held_back);
}

std::optional<StoredTexts> stored_texts(const Journal& journal, int64_t vocabulary) {
  const std::string path = texts_path(journal);
  StoredTexts out;
  RunTexts& texts = out.texts;
  if (!held_exists(path) || !journal.read_tokens(texts.calibration, texts.held_back)) return std::nullopt;
  const json facts = parse_json_or_discard(read_text_file(open_held_file(path), path, kLargestJournalText));
  const auto fail = [&](const std::string& place, const std::string& expected, const std::string& found) {
    throw FormatError(
        fmt::format("{}: {}expected {}, found {}; the interrupted run is damaged: run again with "
                    "--no-resume",
                    path, place.empty() ? "" : escaped(place) + ": ", expected, found));
  };
  if (!facts.is_object()) fail("", "a JSON object", facts.is_discarded() ? "no valid JSON" : facts.type_name());
  const auto value_of = [&](const char* key) -> const json& {
    const auto it = facts.find(key);
    if (it == facts.end()) fail(key, "a value", "nothing");
    return *it;
  };
  const auto text_of = [&](const json& value, const std::string& place) {
    if (!value.is_string()) fail(place, "a text", value.type_name());
    return value.get<std::string>();
  };
  for (const TokenSet* set : {&texts.calibration, &texts.held_back}) {
    for (const auto& sequence : set->sequences) {
      for (const int32_t id : sequence) {
        if (id >= 0 && id < vocabulary) continue;
        throw FormatError(
            fmt::format("{}: expected tokens from 0 to {}, found {}; the interrupted run is damaged: run "
                        "again with --no-resume",
                        journal.tokens_path(), vocabulary - 1, id));
      }
    }
  }
  texts.held_back_source = text_of(value_of("held_back_source"), "held_back_source");
  if (!value_of("calibration").is_object()) fail("calibration", "an object", value_of("calibration").type_name());
  texts.record = record_of<TextRecord>(
      value_of("calibration"), [&](const std::string& place, const std::string& expected, const std::string& found) {
        fail("calibration/" + place, expected, found);
      });
  if (!value_of("warnings").is_array()) fail("warnings", "a list", value_of("warnings").type_name());
  for (const json& text : value_of("warnings")) out.warnings.push_back(text_of(text, "warnings"));
  return out;
}

}  // namespace metal_marlin

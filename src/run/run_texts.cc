#include "run/run_texts.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/files/atomic_file.h"
#include "core/files/held_folder.h"
#include "formats/json/bounded_json.h"
#include "formats/text.h"
#include "records/journal_records.h"
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
  const StoredTextsRecord record{texts.held_back_source, texts.record, {warnings.begin(), warnings.end()}};
  write_text_file(texts_path(journal), json_of(record).dump(-1, ' ', false, json::error_handler_t::replace));
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
  StoredTextsRecord record = record_of<StoredTextsRecord>(facts, fail);
  texts.held_back_source = std::move(record.held_back_source);
  texts.record = std::move(record.calibration);
  out.warnings = std::move(record.warnings);
  return out;
}

}  // namespace metal_marlin

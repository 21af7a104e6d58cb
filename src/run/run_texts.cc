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

std::optional<StoredTexts> stored_texts(const Journal& journal) {
  const std::string path = texts_path(journal);
  StoredTexts out;
  RunTexts& texts = out.texts;
  if (!held_exists(path) || !journal.read_tokens(texts.calibration, texts.held_back)) return std::nullopt;
  const json facts = parse_json_or_discard(read_text_file(open_held_file(path), path, kLargestJournalText));
  if (!facts.is_object()) return out;
  texts.held_back_source = facts.value("held_back_source", std::string());
  texts.record = record_of<TextRecord>(
      facts.value("calibration", json()),
      [&](const std::string& place, const std::string& expected, const std::string& found) {
        throw FormatError(fmt::format("{}: calibration{}{}: expected {}, found {}; run again with --no-resume", path,
                                      place.empty() ? "" : "/", escaped(place), expected, found));
      });
  for (const json& text : facts.value("warnings", json::array())) out.warnings.push_back(text.get<std::string>());
  return out;
}

}  // namespace metal_marlin

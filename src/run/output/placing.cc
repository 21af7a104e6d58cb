#include "run/output/placing.h"

#include <nlohmann/json.hpp>

#include "core/files/atomic_file.h"
#include "formats/json/bounded_json.h"

namespace metal_marlin {
namespace {

using nlohmann::json;

std::optional<std::set<std::string>> names_in(const json& placing, const char* key) {
  const auto it = placing.find(key);
  if (it == placing.end()) return std::nullopt;
  std::set<std::string> out;
  if (!it->is_array() || it->size() > 2 * kMostListed) return out;
  for (const json& name : *it) {
    if (name.is_string() && is_listed_name(name.get_ref<const std::string&>())) out.insert(name.get<std::string>());
  }
  return out;
}

}  // namespace

Placing read_placing(const Folder& journal) {
  constexpr uint64_t kLargest = 16u << 20;
  const FileStatus status = journal.status(kPlacing);
  Placing out;
  if (status.kind != FileKind::kRegular || status.identity.size > kLargest) return out;
  const std::string text = read_text_file(journal.open_file(kPlacing), journal.path_of(kPlacing), kLargest);
  if (json_excess(text, {.depth = 4, .values = 8 * kMostListed})) return out;
  const json j = parse_json_or_discard(text);
  if (!j.is_object()) return out;
  out.old = names_in(j, "old");
  out.fresh = names_in(j, "new");
  if (j.contains("folder") && j["folder"].is_string()) out.folder = j["folder"].get<std::string>();
  return out;
}

Placing placing_in(const Folder& output) {
  if (output.status(kJournalName).kind != FileKind::kFolder) return {};
  return read_placing(output.open_folder(kJournalName));
}

void write_placing(const Folder& journal, const Placing& what) {
  json j = json::object();
  if (what.old) j["old"] = *what.old;
  if (what.fresh) j["new"] = *what.fresh;
  if (!what.folder.empty()) j["folder"] = what.folder;
  write_text_file(journal.path_of(kPlacing), j.dump(-1, ' ', false, json::error_handler_t::replace));
}

void add_noted(const Placing& placing, Manifest& manifest) {
  for (const auto& names : {placing.old, placing.fresh}) {
    if (names) manifest.files.insert(names->begin(), names->end());
  }
}

}  // namespace metal_marlin

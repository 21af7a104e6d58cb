#include "run/output_folder.h"

#include <errno.h>
#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "checkpoint/model_source.h"
#include "core/files/atomic_file.h"
#include "core/files/file_status.h"
#include "platform/access.h"
#include "run/journal.h"
#include "write/checkpoint_writer.h"

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kResult = "result";       // in the journal folder
constexpr const char* kPlacing = "place.json";  // likewise: what place() is doing, and where

// Beside OUT: ".OUT.metal-marlin.XXXXXXXXXXXXXXXX".
std::string start_of_beside(const std::string& name) {
  return fmt::format(".{}.metal-marlin.", name);
}

bool is_beside(const std::string& name, const std::string& output) {
  const std::string start = start_of_beside(output);
  return name.size() == start.size() + 16 && name.starts_with(start) &&
         name.find_first_not_of("0123456789abcdef", start.size()) == std::string::npos;
}

json read_placing(const Folder& journal) {
  if (journal.status(kPlacing).kind != FileKind::kRegular) return nullptr;
  json j =
      json::parse(read_text_file(journal.open_file(kPlacing), journal.path_of(kPlacing), 64u << 20), nullptr, false);
  return j.is_object() ? std::move(j) : json(nullptr);
}

// The names that an interrupted place() has noted: of the old content, and of the new one that has come.
void add_noted(const json& placing, Manifest& manifest) {
  if (!placing.is_object()) return;
  for (const char* key : {"old", "new"}) {
    const json names = placing.value(key, json::array());
    if (!names.is_array()) continue;
    for (const json& name : names) {
      if (name.is_string()) manifest.files.insert(name.get<std::string>());
    }
  }
}

std::string folder_named(const json& placing) {
  return placing.is_object() && placing.contains("folder") && placing["folder"].is_string()
             ? placing["folder"].get<std::string>()
             : std::string();
}

void write_placing(const Folder& journal, const json& what) {
  write_text_file(journal.path_of(kPlacing), what.dump(-1, ' ', false, json::error_handler_t::replace));
}

bool same(const FileStatus& a, const FileStatus& b) {
  return a.identity.device == b.identity.device && a.identity.inode == b.identity.inode;
}

// The old content of OUT, which place() has put aside. Its marker goes last: what is left of it is known by that.
// Returns what it holds beside our files.
std::vector<std::string> remove_old(const Folder& parent, const std::string& name) {
  {
    const Folder old = parent.open_folder(name);
    Manifest manifest = read_manifest(old);
    if (old.status(kJournalName).kind == FileKind::kFolder)
      add_noted(read_placing(old.open_folder(kJournalName)), manifest);
    remove_listed(old, manifest);
    remove_leftovers(old);
    if (std::vector<std::string> foreign = foreign_names(old, {}); !foreign.empty()) return foreign;
    Journal::remove_from(old);
  }
  return parent.remove_empty(name) ? std::vector<std::string>() : std::vector<std::string>{"a new file"};
}

}  // namespace

OutputFolder::OutputFolder(const std::string& path, Use use, const Warn& warn)
    : path_(path), use_write_(use == Use::kWrite) {
  std::error_code code;
  const auto kind = fs::status(path, code);
  if (fs::exists(kind) && !fs::is_directory(kind))
    throw ArgumentError(fmt::format("{}: expected a folder, found a file", path));
  if (!fs::exists(kind)) {
    if (!use_write_) return;
    made_ = MadeFolders(path);
  }
  // The run that had the lock may have exchanged the folder between our look and our lock.
  for (int attempt = 0; attempt < 8; ++attempt) {
    folder_ = Folder(path);
    const LockResult lock = folder_->lock();
    if (lock == LockResult::kHeldByAnother) {
      made_.keep();
      throw SystemError(fmt::format("{}: another run is writing there; wait for it, or choose another folder", path));
    }
    if (lock == LockResult::kNotSupported) {
      warn(fmt::format("{}: the file system has no locks; see to it that no other run writes there", path));
      break;
    }
    const std::optional<Folder> now = Folder::open_if_there(path);
    if (now && same(now->status(), folder_->status())) break;
    if (attempt == 7) throw SystemError(fmt::format("{}: the folder is replaced all the time", path));
  }
  real_ = fs::canonical(path, code).string();
  if (code) throw SystemError(fmt::format("{}: cannot open the folder: {}", path, code.message()));
  if (!use_write_) return;
  remove_leftovers(*folder_);
  take_back_staged();
  remove_leftovers_beside();
}

std::optional<Folder> OutputFolder::parent() const {
  const fs::path place(real_);
  if (!place.has_filename() || !place.has_parent_path()) return std::nullopt;
  try {
    Folder above(place.parent_path().string());
    // Whoever moved OUT meanwhile gets nothing exchanged.
    if (!same(above.status(place.filename().string()), folder_->status())) return std::nullopt;
    return above;
  } catch (const SystemError&) {
    return std::nullopt;
  }
}

bool OutputFolder::has_journal_folder() const {
  return exists() && folder_->status(kJournalName).kind != FileKind::kNone;
}

bool OutputFolder::placing() const {
  if (!exists() || folder_->status(kJournalName).kind != FileKind::kFolder) return false;
  const json what = read_placing(folder_->open_folder(kJournalName));
  return what.is_object() && what.contains("new");
}

Manifest OutputFolder::manifest() const {
  if (!exists()) return {};
  Manifest out = read_manifest(*folder_);
  if (folder_->status(kJournalName).kind == FileKind::kFolder)
    add_noted(read_placing(folder_->open_folder(kJournalName)), out);
  return out;
}

bool OutputFolder::interrupted() const {
  if (!exists() || folder_->status(kJournalName).kind != FileKind::kFolder) return false;
  const json what = read_placing(folder_->open_folder(kJournalName));
  return what.is_object() && (what.contains("old") || what.contains("new"));
}

void OutputFolder::note(const Manifest& manifest) {
  if (manifest.files == read_manifest(*folder_).files) return;
  if (folder_->status(kJournalName).kind == FileKind::kNone) folder_->make_folder(kJournalName);
  write_placing(folder_->open_folder(kJournalName), {{"old", manifest.files}});
}

std::string OutputFolder::stage() {
  if (folder_->status(kJournalName).kind == FileKind::kNone) folder_->make_folder(kJournalName);
  const Folder journal = folder_->open_folder(kJournalName);
  // Another result begins: what an interrupted place() has moved belongs to the old content from now on.
  if (placing()) write_placing(journal, {{"old", manifest().files}});
  journal.remove_tree(kResult);
  return journal.make_folder(kResult).path();
}

bool OutputFolder::staged(const std::string& name) const {
  if (!exists() || folder_->status(kJournalName).kind != FileKind::kFolder) return false;
  const Folder journal = folder_->open_folder(kJournalName);
  return journal.status(kResult).kind == FileKind::kFolder &&
         journal.open_folder(kResult).status(name).kind == FileKind::kRegular;
}

void OutputFolder::remove_journal() {
  Journal::remove_from(*folder_);
}

// A run was killed after it had put the staged result beside OUT and before the exchange.
void OutputFolder::take_back_staged() {
  if (folder_->status(kJournalName).kind != FileKind::kFolder) return;
  const Folder journal = folder_->open_folder(kJournalName);
  json what = read_placing(journal);
  const std::string aside = folder_named(what);
  const fs::path place(real_);
  if (aside.empty() || !is_beside(aside, place.filename().string())) return;
  const std::optional<Folder> above = parent();
  if (above && above->status(aside).kind == FileKind::kFolder && journal.status(kResult).kind == FileKind::kNone)
    above->rename(aside, journal, kResult);
  what.erase("folder");
  write_placing(journal, what);
}

// Runs that were killed between the exchange and the end of the clean-up. A folder is ours when its name has the form
// and the marker in it names the folder itself.
void OutputFolder::remove_leftovers_beside() const {
  const std::optional<Folder> above = parent();
  if (!above) return;
  for (const std::string& name : above->names()) {
    if (!is_beside(name, fs::path(real_).filename().string()) || above->status(name).kind != FileKind::kFolder)
      continue;
    try {
      const Folder old = above->open_folder(name);
      if (old.names().empty()) {
        above->remove_empty(name);
        continue;
      }
      if (old.status(kJournalName).kind != FileKind::kFolder || old.lock() == LockResult::kHeldByAnother) continue;
      if (folder_named(read_placing(old.open_folder(kJournalName))) == name) remove_old(*above, name);
    } catch (const Error&) {
      continue;  // not ours to read or to remove: it disturbs nobody
    }
  }
}

bool OutputFolder::exchange(const Folder& journal, const Warn& warn) {
  const std::optional<Folder> above = parent();
  std::error_code code;
  if (!above || fs::equivalent(".", real_, code)) return false;
  const std::string name = fs::path(real_).filename().string();
  const std::string aside = start_of_beside(name) + random_name();
  journal.open_folder(kResult).set_permissions(folder_->status().permissions);
  json noted = read_placing(journal);
  if (!noted.is_object()) noted = json::object();
  noted["folder"] = aside;
  write_placing(journal, noted);
  const auto give_up = [&] {
    noted.erase("folder");
    write_placing(journal, noted);
    return false;
  };
  if (journal.try_rename(kResult, *above, aside) != 0) return give_up();
  above->sync();
  if (above->try_exchange(aside, *above, name) != 0) {
    above->rename(aside, journal, kResult);
    return give_up();
  }
  above->sync();
  made_.keep();
  try {
    if (const std::vector<std::string> left = remove_old(*above, aside); !left.empty()) {
      warn(fmt::format("{} was replaced; what came into the old folder during the run is kept in {}: {}", path_,
                       above->path_of(aside), some_names(left)));
    }
  } catch (const Error& e) {
    warn(fmt::format("{} was replaced, but its old content could not be removed: {}", path_, e.what()));
  }
  return true;
}

// config.json, without which no reader accepts a folder, and the lists of files go last, in this order.
void OutputFolder::move_files(const Folder& journal, const Manifest& old) {
  const Folder staged = journal.open_folder(kResult);
  std::vector<std::string> names;
  const auto rank = [](const std::string& name) {
    return name == "report.json" || name == kManifestName ? 2 : fs::path(name).filename() == "config.json" ? 1 : 0;
  };
  for (const std::string& name : staged.names()) {
    if (staged.status(name).kind != FileKind::kFolder) {
      names.push_back(name);
      continue;
    }
    for (const std::string& file : staged.open_folder(name).names()) names.push_back(name + "/" + file);
  }
  std::stable_sort(names.begin(), names.end(),
                   [&](const std::string& a, const std::string& b) { return rank(a) < rank(b); });
  std::set<std::string> fresh(names.begin(), names.end());
  if (const json before = read_placing(journal); before.is_object() && before.contains("new")) {
    for (const json& name : before["new"]) {
      if (name.is_string()) fresh.insert(name.get<std::string>());  // an earlier try may have moved it
    }
  } else {
    write_placing(journal, {{"old", old.files}, {"new", names}});
  }
  // An old config.json goes before the first new file comes: a mixture must not be loadable.
  Manifest gone;
  for (const std::string& name : old.files) {
    const bool waits = std::find(names.begin(), names.end(), name) != names.end();
    if (fresh.count(name) == 0 || (waits && fs::path(name).filename() == "config.json")) gone.files.insert(name);
  }
  remove_listed(*folder_, gone);
  for (const std::string& name : names) {
    const size_t slash = name.find('/');
    if (slash == std::string::npos) {
      staged.rename(name, *folder_, name);
      continue;
    }
    const std::string format = name.substr(0, slash);
    const std::string file = name.substr(slash + 1);
    if (folder_->status(format).kind == FileKind::kNone) folder_->make_folder(format);
    staged.open_folder(format).rename(file, folder_->open_folder(format), file);
  }
  folder_->sync();
}

void OutputFolder::place(const Warn& warn) {
  const Manifest old = manifest();
  if (const std::vector<std::string> foreign = foreign_names(*folder_, old); !foreign.empty()) {
    throw ArgumentError(fmt::format(
        "{}: holds {}, which no run of this program wrote{}; move it away and run the same command again to "
        "put the finished result there",
        path_, some_names(foreign), unreadable_list_text(*folder_)));
  }
  const Folder journal = folder_->open_folder(kJournalName);
  if (!placing() && exchange(journal, warn)) return;
  move_files(journal, old);
  made_.keep();
  remove_journal();
}

void require_place_for(const std::string& path) {
  fs::path place = absolute_path(path);
  while (!path_exists(place) && place.has_relative_path()) place = place.parent_path();
  if (!is_folder(place))
    throw SystemError(fmt::format("{}: cannot create the folder: {} is a file", path, place.string()));
  if (const std::string why = refusal_to_write(place.string()); !why.empty())
    throw SystemError(fmt::format("{}: cannot write into the folder {}: {}", path, place.string(), why));
}

void refuse_model_inside(const ModelSource& source, const std::string& output) {
  std::error_code code;
  const fs::path folder = fs::canonical(output, code);
  if (code) return;  // it is not there yet
  for (fs::path place = fs::canonical(source.path(), code); !code && place.has_relative_path();
       place = place.parent_path()) {
    if (place == folder)
      throw ArgumentError(fmt::format("{}: the model lies in the output folder; choose another", output));
  }
}

void check_output(const ModelSource& source, const std::string& output) {
  if (output.empty()) throw ArgumentError("--output: expected a folder, got nothing");
  std::error_code code;
  if (std::filesystem::exists(output, code) && !std::filesystem::is_directory(output, code)) {
    throw ArgumentError(fmt::format("{}: expected a folder, found a file", output));
  }
  refuse_own_folder(source, output);
}

}  // namespace metal_marlin

#include "run/output_folder.h"

#include <errno.h>
#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "checkpoint/model_source.h"
#include "core/files/atomic_file.h"
#include "core/files/file_status.h"
#include "formats/json/bounded_json.h"
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

// What place.json says. Anybody may have put that file there: a name that is_listed_name() refuses, and whatever else
// it holds, is not taken from it.
struct Placing {
  std::optional<std::set<std::string>> old;    // names of the old content
  std::optional<std::set<std::string>> fresh;  // of the new one, which is moved file by file
  std::string folder;                          // beside OUT: where the staged result, or the old content, is

  bool empty() const noexcept { return !old && !fresh && folder.empty(); }
};

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

// A file that is damaged, or cannot be ours, counts as none.
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

void add_noted(const Placing& placing, Manifest& manifest) {
  for (const auto& names : {placing.old, placing.fresh}) {
    if (names) manifest.files.insert(names->begin(), names->end());
  }
}

void write_placing(const Folder& journal, const Placing& what) {
  json j = json::object();
  if (what.old) j["old"] = *what.old;
  if (what.fresh) j["new"] = *what.fresh;
  if (!what.folder.empty()) j["folder"] = what.folder;
  write_text_file(journal.path_of(kPlacing), j.dump(-1, ' ', false, json::error_handler_t::replace));
}

bool same(const FileStatus& a, const FileStatus& b) {
  return a.identity.device == b.identity.device && a.identity.inode == b.identity.inode;
}

// The old content of OUT, which place() has put aside. Its marker goes last: what is left of it is known by that.
// Returns what it holds beside our files.
std::vector<std::string> remove_old(const Folder& parent, const std::string& name, const FileStatus& expected) {
  {
    const Folder old = parent.open_folder(name);
    if (!same(old.status(), expected)) throw SystemError(fmt::format("{}: was replaced meanwhile", old.path()));
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
  bool locked = true;
  // The run that had the lock may have exchanged the folder between our look and our lock.
  for (int attempt = 0; attempt < 8; ++attempt) {
    folder_ = std::make_shared<const Folder>(path);
    const LockResult lock = folder_->lock();
    if (lock == LockResult::kHeldByAnother) {
      made_.keep();
      throw SystemError(fmt::format("{}: another run is writing there; wait for it, or choose another folder", path));
    }
    if (lock == LockResult::kNotSupported) {
      warn(fmt::format("{}: the file system has no locks; see to it that no other run writes there", path));
      locked = false;
      break;
    }
    const std::optional<Folder> now = Folder::open_if_there(path);
    if (now && same(now->status(), folder_->status())) break;
    if (attempt == 7) throw SystemError(fmt::format("{}: the folder is replaced all the time", path));
  }
  real_ = fs::canonical(path, code).string();
  if (code) throw SystemError(fmt::format("{}: cannot open the folder: {}", path, code.message()));
  if (!use_write_) return;
  held_ = std::make_unique<HeldFolder>(folder_);
  require_own_journal();
  remove_leftovers(*folder_);
  take_back_staged();
  if (locked) remove_leftovers_beside(warn);
}

// Whoever can put a journal into the folder could make a run continue with weights of his.
void OutputFolder::require_own_journal() const {
  const FileStatus status = folder_->status(kJournalName);
  if (status.kind != FileKind::kFolder || status.own) return;
  // Some file systems tell another owner of everything, also of what this process makes.
  const std::string probe = folder_->path_of("probe");
  if (!status_of(open_scratch_file(probe), probe).own) return;
  throw SystemError(
      fmt::format("{}: belongs to another user; expected an interrupted run of your own, or none: move it away, or "
                  "choose another folder",
                  folder_->path_of(kJournalName)));
}

void OutputFolder::require_same_folder() const {
  const std::optional<Folder> now = Folder::open_if_there(path_);
  if (now && same(now->status(), folder_->status())) return;
  throw SystemError(
      fmt::format("{}: was replaced or moved away during the run; what stands there now is left as it is, and the "
                  "result is not put there; put the folder back and run the same command again",
                  path_));
}

// SystemError where it is held, and another one stands in its place.
Folder OutputFolder::journal() const {
  return open_held(folder_->path_of(kJournalName));
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
  return read_placing(folder_->open_folder(kJournalName)).fresh.has_value();
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
  const Placing what = read_placing(folder_->open_folder(kJournalName));
  return what.old || what.fresh;
}

void OutputFolder::note(const Manifest& manifest) {
  if (manifest.files == read_manifest(*folder_).files) return;
  write_placing(make_held(folder_->path_of(kJournalName)), {manifest.files, std::nullopt, {}});
}

std::string OutputFolder::stage() {
  journal_ = std::make_unique<HeldFolder>(std::make_shared<const Folder>(make_held(folder_->path_of(kJournalName))));
  const Folder& journal = journal_->folder();
  // Another result begins: what an interrupted place() has moved belongs to the old content from now on.
  if (placing()) write_placing(journal, {manifest().files, std::nullopt, {}});
  journal.remove_tree(kResult);
  staged_ = std::make_unique<HeldFolder>(std::make_shared<const Folder>(journal.make_folder(kResult)));
  return staged_->folder().path();
}

bool OutputFolder::staged(const std::string& name) const {
  if (!exists() || folder_->status(kJournalName).kind != FileKind::kFolder) return false;
  const Folder journal = folder_->open_folder(kJournalName);
  return journal.status(kResult).kind == FileKind::kFolder &&
         journal.open_folder(kResult).status(name).kind == FileKind::kRegular;
}

void OutputFolder::remove_journal() {
  // Other folders in their places are not removed.
  if (journal_) journal();
  if (staged_) open_held(staged_->folder().path());
  Journal::remove_from(*folder_);
}

// A run was killed after it had put the staged result beside OUT and before the exchange.
void OutputFolder::take_back_staged() {
  if (folder_->status(kJournalName).kind != FileKind::kFolder) return;
  const Folder journal = folder_->open_folder(kJournalName);
  Placing what = read_placing(journal);
  const std::string aside = what.folder;
  const fs::path place(real_);
  if (aside.empty() || !is_beside(aside, place.filename().string())) return;
  const std::optional<Folder> above = parent();
  if (above && journal.status(kResult).kind == FileKind::kNone) {
    const FileStatus status = above->status(aside);
    if (status.kind == FileKind::kFolder && status.own) above->rename(aside, journal, kResult);
  }
  what.folder.clear();
  write_placing(journal, what);
}

// Runs that were killed between the exchange and the end of the clean-up. A folder is ours when its name has the form,
// it and the journal in it belong to this user, and the marker in it names the folder itself. Others disturb nobody.
void OutputFolder::remove_leftovers_beside(const Warn& warn) const {
  const std::optional<Folder> above = parent();
  if (!above) return;
  constexpr int kTold = 3;
  int kept = 0;
  const auto keep = [&](const std::string& name, const std::string& why) {
    if (++kept <= kTold)
      warn(fmt::format("{}: has the name of a leftover of this program, but {}; it is left as it is",
                       above->path_of(name), why));
  };
  for (const std::string& name : above->names()) {
    if (!is_beside(name, fs::path(real_).filename().string())) continue;
    try {
      const FileStatus seen = above->status(name);
      if (seen.kind != FileKind::kFolder) {
        keep(name, fmt::format("is {}", kind_name(seen.kind)));
        continue;
      }
      if (!seen.own) {
        keep(name, "belongs to another user");
        continue;
      }
      const Folder old = above->open_folder(name);
      if (!same(old.status(), seen)) continue;
      if (old.names().empty()) {
        above->remove_empty(name);
        continue;
      }
      const FileStatus journal = old.status(kJournalName);
      if (journal.kind != FileKind::kFolder || !journal.own) {
        keep(name, "holds no journal of this user");
        continue;
      }
      if (old.lock() != LockResult::kTaken) continue;
      if (read_placing(old.open_folder(kJournalName)).folder != name) {
        keep(name, "what its journal says is not of this folder");
        continue;
      }
      if (const auto foreign = remove_old(*above, name, seen); !foreign.empty())
        keep(name, fmt::format("holds {}, which no run of this program wrote", some_names(foreign)));
    } catch (const Error& e) {
      keep(name, fmt::format("cannot be removed: {}", e.what()));
    }
  }
  if (kept > kTold) warn(fmt::format("{}: {} more such entries are left as they are", above->path(), kept - kTold));
}

bool OutputFolder::exchange(const Folder& journal, const Warn& warn) {
  const std::optional<Folder> above = parent();
  std::error_code code;
  if (!above || fs::equivalent(".", real_, code)) return false;
  const std::string name = fs::path(real_).filename().string();
  const std::string aside = start_of_beside(name) + random_name();
  const FileStatus result = journal.open_folder(kResult).status();
  journal.open_folder(kResult).set_permissions(folder_->status().permissions);
  Placing noted = read_placing(journal);
  noted.folder = aside;
  write_placing(journal, noted);
  const auto give_up = [&] {
    noted.folder.clear();
    write_placing(journal, noted);
    return false;
  };
  if (journal.try_rename(kResult, *above, aside) != 0) return give_up();
  above->sync();
  if (above->try_exchange(aside, *above, name) != 0) {
    above->rename(aside, journal, kResult);
    return give_up();
  }
  // Somebody may have put another folder into OUT's place between our look and the exchange.
  if (!same(above->status(aside), folder_->status()) || !same(above->status(name), result)) {
    if (above->try_exchange(aside, *above, name) == 0 && same(above->status(aside), result))
      above->rename(aside, journal, kResult);
    give_up();
    require_same_folder();
    throw SystemError(fmt::format("{}: was replaced for a moment; run the same command again", path_));
  }
  above->sync();
  made_.keep();
  try {
    if (const std::vector<std::string> left = remove_old(*above, aside, folder_->status()); !left.empty()) {
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
  const std::set<std::string> staged_names(names.begin(), names.end());
  std::set<std::string> fresh = staged_names;
  if (const Placing before = read_placing(journal); before.fresh) {
    fresh.insert(before.fresh->begin(), before.fresh->end());  // an earlier try may have moved it
  } else {
    write_placing(journal, {old.files, staged_names, {}});
  }
  // An old config.json goes before the first new file comes: a mixture must not be loadable.
  Manifest gone;
  for (const std::string& name : old.files) {
    const bool waits = staged_names.count(name) > 0;
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
  require_same_folder();
  const Manifest old = manifest();
  if (const std::vector<std::string> foreign = foreign_names(*folder_, old); !foreign.empty()) {
    throw SystemError(fmt::format(
        "{}: holds {}, which no run of this program wrote{}; move it away and run the same command again to "
        "put the finished result there",
        path_, some_names(foreign), unreadable_list_text(*folder_)));
  }
  const Folder journal = this->journal();
  if (staged_ && !same(journal.status(kResult), staged_->folder().status())) {
    throw SystemError(fmt::format("{}: was replaced during the run; remove it and run the same command again",
                                  journal.path_of(kResult)));
  }
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

#include "run/output/output_folder.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <filesystem>
#include <memory>

#include "core/files/atomic_file.h"
#include "run/journal/journal.h"
#include "run/output/move_result.h"
#include "run/output/placing.h"

namespace metal_marlin {

namespace fs = std::filesystem;

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
    if (now && same_file(now->status(), folder_->status())) break;
    if (attempt == 7) throw SystemError(fmt::format("{}: the folder is replaced all the time", path));
  }
  real_ = fs::canonical(path, code).string();
  if (code) throw SystemError(fmt::format("{}: cannot open the folder: {}", path, code.message()));
  if (!use_write_) return;
  held_ = std::make_unique<HeldFolder>(folder_);
  require_own_journal();
  remove_leftovers(*folder_);
  take_back_staged(opened());
  if (locked) remove_leftovers_beside(opened(), warn);
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

// SystemError where it is held, and another one stands in its place.
Folder OutputFolder::journal() const {
  return open_held(folder_->path_of(kJournalName));
}

bool OutputFolder::has_journal_folder() const {
  return exists() && folder_->status(kJournalName).kind != FileKind::kNone;
}

bool OutputFolder::placing() const {
  return exists() && placing_in(*folder_).fresh.has_value();
}

Manifest OutputFolder::manifest() const {
  if (!exists()) return {};
  Manifest out = read_manifest(*folder_);
  add_noted(placing_in(*folder_), out);
  return out;
}

bool OutputFolder::interrupted() const {
  if (!exists()) return false;
  const Placing what = placing_in(*folder_);
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

void OutputFolder::place(const Warn& warn) {
  require_same_folder(opened());
  const Manifest old = manifest();
  if (const std::vector<std::string> foreign = foreign_names(*folder_, old); !foreign.empty()) {
    throw SystemError(fmt::format(
        "{}: holds {}, which no run of this program wrote{}; move it away and run the same command again to "
        "put the finished result there",
        path_, some_names(foreign), unreadable_list_text(*folder_)));
  }
  const Folder journal = this->journal();
  if (staged_ && !same_file(journal.status(kResult), staged_->folder().status())) {
    throw SystemError(fmt::format("{}: was replaced during the run; remove it and run the same command again",
                                  journal.path_of(kResult)));
  }
  if (!placing() && exchange_result(opened(), journal, made_, warn)) return;
  move_result(journal, old, *folder_);
  made_.keep();
  remove_journal();
}

}  // namespace metal_marlin

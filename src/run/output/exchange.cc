#include "run/output/exchange.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <filesystem>
#include <vector>

#include "core/files/file_status.h"
#include "run/journal/journal.h"
#include "run/output/placing.h"
#include "write/checkpoint_writer.h"
#include "write/manifest.h"

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;

// Beside OUT: ".OUT.metal-marlin.XXXXXXXXXXXXXXXX".
std::string start_of_beside(const std::string& name) {
  return fmt::format(".{}.metal-marlin.", name);
}

bool is_beside(const std::string& name, const std::string& output) {
  const std::string start = start_of_beside(output);
  return name.size() == start.size() + 16 && name.starts_with(start) &&
         name.find_first_not_of("0123456789abcdef", start.size()) == std::string::npos;
}

// The old content of OUT, which place() has put aside. Its marker goes last: what is left of it is known by that.
// Returns what it holds beside our files.
std::vector<std::string> remove_old(const Folder& parent, const std::string& name, const FileStatus& expected) {
  {
    const Folder old = parent.open_folder(name);
    if (!same_file(old.status(), expected)) throw SystemError(fmt::format("{}: was replaced meanwhile", old.path()));
    Manifest manifest = read_manifest(old);
    add_noted(placing_in(old), manifest);
    remove_listed(old, manifest);
    remove_leftovers(old);
    if (std::vector<std::string> foreign = foreign_names(old, {}); !foreign.empty()) return foreign;
    Journal::remove_from(old);
  }
  return parent.remove_empty(name) ? std::vector<std::string>() : std::vector<std::string>{"a new file"};
}

// Nothing where OUT has none, where it cannot be opened, or where OUT was moved out of it.
std::optional<Folder> parent_of(const OpenedOutput& output) {
  const fs::path place(output.real);
  if (!place.has_filename() || !place.has_parent_path()) return std::nullopt;
  try {
    Folder above(place.parent_path().string());
    // Whoever moved OUT meanwhile gets nothing exchanged.
    if (!same_file(above.status(place.filename().string()), output.folder.status())) return std::nullopt;
    return above;
  } catch (const SystemError&) {
    return std::nullopt;
  }
}

}  // namespace

bool same_file(const FileStatus& a, const FileStatus& b) {
  return a.identity.device == b.identity.device && a.identity.inode == b.identity.inode;
}

void require_same_folder(const OpenedOutput& output) {
  const std::optional<Folder> now = Folder::open_if_there(output.path);
  if (now && same_file(now->status(), output.folder.status())) return;
  throw SystemError(
      fmt::format("{}: was replaced or moved away during the run; what stands there now is left as it is, and the "
                  "result is not put there; put the folder back and run the same command again",
                  output.path));
}

void take_back_staged(const OpenedOutput& output) {
  if (output.folder.status(kJournalName).kind != FileKind::kFolder) return;
  const Folder journal = output.folder.open_folder(kJournalName);
  Placing what = read_placing(journal);
  const std::string aside = what.folder;
  const fs::path place(output.real);
  if (aside.empty() || !is_beside(aside, place.filename().string())) return;
  const std::optional<Folder> above = parent_of(output);
  if (above && journal.status(kResult).kind == FileKind::kNone) {
    const FileStatus status = above->status(aside);
    if (status.kind == FileKind::kFolder && status.own) above->rename(aside, journal, kResult);
  }
  what.folder.clear();
  write_placing(journal, what);
}

void remove_leftovers_beside(const OpenedOutput& output, const std::function<void(const std::string&)>& warn) {
  const std::optional<Folder> above = parent_of(output);
  if (!above) return;
  constexpr int kTold = 3;
  int kept = 0;
  const auto keep = [&](const std::string& name, const std::string& why) {
    if (++kept <= kTold)
      warn(fmt::format("{}: has the name of a leftover of this program, but {}; it is left as it is",
                       above->path_of(name), why));
  };
  for (const std::string& name : above->names()) {
    if (!is_beside(name, fs::path(output.real).filename().string())) continue;
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
      if (!same_file(old.status(), seen)) continue;
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

bool exchange_result(const OpenedOutput& output, const Folder& journal, MadeFolders& made,
                     const std::function<void(const std::string&)>& warn) {
  const std::optional<Folder> above = parent_of(output);
  std::error_code code;
  if (!above || fs::equivalent(".", output.real, code)) return false;
  const std::string name = fs::path(output.real).filename().string();
  const std::string aside = start_of_beside(name) + random_name();
  const FileStatus result = journal.open_folder(kResult).status();
  journal.open_folder(kResult).set_permissions(output.folder.status().permissions);
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
  if (!same_file(above->status(aside), output.folder.status()) || !same_file(above->status(name), result)) {
    if (above->try_exchange(aside, *above, name) == 0 && same_file(above->status(aside), result))
      above->rename(aside, journal, kResult);
    give_up();
    require_same_folder(output);
    throw SystemError(fmt::format("{}: was replaced for a moment; run the same command again", output.path));
  }
  above->sync();
  made.keep();
  try {
    if (const std::vector<std::string> left = remove_old(*above, aside, output.folder.status()); !left.empty()) {
      warn(fmt::format("{} was replaced; what came into the old folder during the run is kept in {}: {}", output.path,
                       above->path_of(aside), some_names(left)));
    }
  } catch (const Error& e) {
    warn(fmt::format("{} was replaced, but its old content could not be removed: {}", output.path, e.what()));
  }
  return true;
}

}  // namespace metal_marlin

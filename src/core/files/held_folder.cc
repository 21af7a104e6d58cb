#include "core/files/held_folder.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <filesystem>
#include <mutex>
#include <utility>
#include <vector>

#include "core/files/file_status.h"

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;

struct Entry {
  uint64_t number;
  fs::path place;
  std::shared_ptr<const Folder> folder;
};

struct Held {
  std::mutex mutex;
  uint64_t next = 0;
  std::vector<Entry> entries;
};

// Never destroyed: a HeldFolder may be.
Held& held() {
  static auto* all = new Held;
  return *all;
}

fs::path place_of(const std::string& path) {
  fs::path place = absolute_path(path.empty() ? "." : path).lexically_normal();
  return place.has_filename() || !place.has_relative_path() ? place : place.parent_path();  // "a/b/"
}

// The held folder that `path` lies in, or is, and the names that lead from there to it.
struct Way {
  std::shared_ptr<const Folder> from;  // none: no folder is held there
  std::vector<std::string> names;
};

// The entry of the longest place that is `place` or above it; with `proper`, above it.
const Entry* innermost(const Held& all, const fs::path& place, bool proper) {
  const Entry* best = nullptr;
  ptrdiff_t steps = -1;
  for (const Entry& entry : all.entries) {
    const auto ends = std::mismatch(entry.place.begin(), entry.place.end(), place.begin(), place.end());
    const auto length = std::distance(entry.place.begin(), entry.place.end());
    if (ends.first != entry.place.end() || length < steps || (proper && ends.second == place.end())) continue;
    steps = length;
    best = &entry;
  }
  return best;
}

Way way_from(const Entry& entry, const fs::path& place) {
  Way way{entry.folder, {}};
  auto name = std::mismatch(entry.place.begin(), entry.place.end(), place.begin(), place.end()).second;
  for (; name != place.end(); ++name) way.names.push_back(name->string());
  return way;
}

// The last folder of the way; nothing where one is missing.
std::optional<Folder> walk(const Way& way, size_t names, bool make) {
  Folder folder = way.from->open_folder(".");
  for (size_t i = 0; i < names; ++i) {
    if (folder.status(way.names[i]).kind == FileKind::kNone) {
      if (!make) return std::nullopt;
      folder = folder.make_folder(way.names[i]);
    } else {
      folder = folder.open_folder(way.names[i]);
    }
  }
  return folder;
}

bool same_folder(const Folder& a, const Folder& b) {
  const FileIdentity first = a.status().identity;
  const FileIdentity second = b.status().identity;
  return first.device == second.device && first.inode == second.inode;
}

// `held` lies in the folder that `above` begins at, and must still be what its name leads to there.
void require_in_place(const Folder& held, const Way& above) {
  const std::optional<Folder> now = walk(above, above.names.size(), false);
  if (now && same_folder(*now, held)) return;
  throw SystemError(
      fmt::format("{}: was replaced or moved away during the run; what stands there now is left as it is; put the "
                  "folder back and run the same command again",
                  held.path()));
}

// SystemError where a held folder on the way lies in another held one, and no longer stands under its name there.
Way way_to(const std::string& path) {
  Way way;
  std::vector<std::pair<std::shared_ptr<const Folder>, Way>> inside;  // held folders, and the way to each
  {
    Held& all = held();
    const std::lock_guard<std::mutex> lock(all.mutex);
    if (all.entries.empty()) return way;
    const fs::path place = place_of(path);
    const Entry* entry = innermost(all, place, false);
    if (entry == nullptr) return way;
    way = way_from(*entry, place);
    while (const Entry* outer = innermost(all, entry->place, true)) {
      inside.emplace_back(entry->folder, way_from(*outer, entry->place));
      entry = outer;
    }
  }
  for (const auto& [folder, above] : inside) require_in_place(*folder, above);
  return way;
}

}  // namespace

HeldFolder::HeldFolder(std::shared_ptr<const Folder> folder) : folder_(std::move(folder)) {
  Held& all = held();
  fs::path place = place_of(folder_->path());
  const std::lock_guard<std::mutex> lock(all.mutex);
  number_ = all.next++;
  all.entries.push_back({number_, std::move(place), folder_});
}

HeldFolder::~HeldFolder() {
  Held& all = held();
  const std::lock_guard<std::mutex> lock(all.mutex);
  std::erase_if(all.entries, [&](const Entry& entry) { return entry.number == number_; });
}

std::optional<Folder> open_held_if_there(const std::string& path) {
  const Way way = way_to(path);
  return way.from ? walk(way, way.names.size(), false) : Folder::open_if_there(path);
}

Folder open_held(const std::string& path) {
  const Way way = way_to(path);
  if (!way.from) return Folder(path);
  Folder folder = way.from->open_folder(".");
  for (const std::string& name : way.names) folder = folder.open_folder(name);
  return folder;
}

Folder make_held(const std::string& path) {
  const Way way = way_to(path);
  if (way.from) return std::move(*walk(way, way.names.size(), true));
  std::error_code code;
  fs::create_directories(path, code);
  if (code) throw SystemError(fmt::format("{}: cannot create the folder: {}", path, code.message()));
  return Folder(path);
}

bool held_exists(const std::string& path) {
  const Way way = way_to(path);
  if (!way.from) return path_exists(path);
  if (way.names.empty()) return true;
  const std::optional<Folder> folder = walk(way, way.names.size() - 1, false);
  return folder && folder->status(way.names.back()).kind != FileKind::kNone;
}

UniqueFd open_held_file(const std::string& path) {
  const Way way = way_to(path);
  if (!way.from || way.names.empty()) return open_regular_file(path);
  return open_held(place_of(path).parent_path().string()).open_file(way.names.back());
}

}  // namespace metal_marlin

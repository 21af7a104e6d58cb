#include "core/files/model_file.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <filesystem>
#include <utility>
#include <vector>

#include "core/files/atomic_file.h"

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;

// A link may say anything of up to 4,096 bytes.
std::string shortened(const std::string& path) {
  constexpr size_t kMost = 200;
  return path.size() <= kMost ? path : path.substr(0, kMost) + "...";
}

// A folder of a snapshot in a Hugging Face cache: .../models--ORG--NAME/snapshots/COMMIT[/...].
struct SnapshotPath {
  fs::path repository;
  std::vector<std::string> below;  // "snapshots", COMMIT, ...
};

std::optional<SnapshotPath> snapshot_path(const fs::path& absolute) {
  SnapshotPath out;
  for (fs::path place = absolute; place.has_relative_path(); place = place.parent_path()) {
    const std::string name = place.filename().string();
    if (!name.empty() && name != ".") out.below.insert(out.below.begin(), name);
    const fs::path snapshots = place.parent_path();
    if (name.empty() || snapshots.filename() != "snapshots") continue;
    if (!snapshots.parent_path().filename().string().starts_with("models--")) continue;
    out.repository = snapshots.parent_path();
    out.below.insert(out.below.begin(), "snapshots");
    return out;
  }
  return std::nullopt;
}

bool same_folder(const Folder& a, const Folder& b) {
  const FileIdentity first = a.status().identity;
  const FileIdentity second = b.status().identity;
  return first.device == second.device && first.inode == second.inode;
}

// Nothing where `path` is no snapshot. Who names a snapshot names its repository: no link on the way from there to the
// snapshot, and none in place of the blobs, may lead out of it.
std::optional<Folder> blobs_of(const std::string& path, const Folder& opened) {
  std::error_code code;
  const fs::path real = fs::canonical(path, code);
  if (code) throw SystemError(fmt::format("{}: cannot open the folder: {}", path, code.message()));
  const auto inside = snapshot_path(real);
  const fs::path absolute = fs::absolute(path, code).lexically_normal();
  if (const auto named = snapshot_path(absolute); !code && named) {
    const fs::path repository = fs::canonical(named->repository, code);
    if (code || !inside || inside->repository != repository) {
      throw SystemError(fmt::format(
          "{}: leads to {}, out of the repository {}; copy the files into the snapshot, or name the folder itself",
          shortened(path), shortened(real.string()), shortened(named->repository.string())));
    }
  }
  if (!inside) return std::nullopt;
  const Folder repository(inside->repository.string());
  std::optional<Folder> place;
  for (const std::string& name : inside->below) place = (place ? *place : repository).open_folder(name);
  if (!place || !same_folder(*place, opened))
    throw SystemError(fmt::format("{}: was replaced while it was opened; run the command again", shortened(path)));
  const FileKind kind = repository.status("blobs").kind;
  if (kind == FileKind::kNone) return std::nullopt;
  if (kind != FileKind::kFolder) {
    throw SystemError(fmt::format("{}: expected the folder of the repository's files, found {}",
                                  shortened(repository.path_of("blobs")), kind_name(kind)));
  }
  return repository.open_folder("blobs");
}

}  // namespace

ModelFolder::ModelFolder(const std::string& path) : folder_(path), blobs_(blobs_of(folder_.path(), folder_)) {}

std::optional<ModelFolder::Place> ModelFolder::resolve(const std::string& name) const {
  if (!is_plain_name(name)) return std::nullopt;
  if (folder_.status(name).kind != FileKind::kLink) return Place{&folder_, name};
  std::error_code code;
  const fs::path target = fs::canonical(folder_.path_of(name), code);
  if (code || !target.has_filename()) return std::nullopt;
  // The folders compared are open ones: whatever is renamed meanwhile, the file opened lies in one of these two.
  const std::optional<Folder> parent = Folder::open_if_there(target.parent_path().string());
  if (!parent) return std::nullopt;
  if (same_folder(*parent, folder_)) return Place{&folder_, target.filename().string()};
  if (blobs_ && same_folder(*parent, *blobs_)) return Place{&*blobs_, target.filename().string()};
  return std::nullopt;
}

bool ModelFolder::leads_out(const std::string& name) const {
  return !resolve(name).has_value();
}

UniqueFd ModelFolder::open(const std::string& name) const {
  if (const auto place = resolve(name)) return place->folder->open_file(place->name);
  std::error_code code;
  const fs::path target = fs::read_symlink(folder_.path_of(name), code);
  throw SystemError(
      fmt::format("{}: is a symbolic link to {}, which is no file of the model's own folder; copy the file there, or "
                  "remove the link",
                  folder_.path_of(name), code ? std::string("another place") : shortened(target.string())));
}

UniqueFd open_model_file(const std::string& path) {
  return ModelFolder(folder_of(path)).open(fs::path(path).filename().string());
}

MappedFile map_model_file(const std::string& path) {
  return MappedFile(open_model_file(path), path);
}

std::string read_model_text(const std::string& path, uint64_t limit) {
  return read_text_file(open_model_file(path), path, limit);
}

}  // namespace metal_marlin

#include "core/files/model_file.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <filesystem>
#include <utility>

#include "core/files/atomic_file.h"

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;

// .../models--ORG--NAME/snapshots/COMMIT[/...] has its files in .../models--ORG--NAME/blobs.
std::optional<Folder> blobs_of(const std::string& path) {
  std::error_code code;
  fs::path place = fs::canonical(path, code);
  if (code) return std::nullopt;
  for (; place.has_relative_path(); place = place.parent_path()) {
    const fs::path snapshots = place.parent_path();
    const fs::path repository = snapshots.parent_path();
    if (snapshots.filename() != "snapshots" || !repository.filename().string().starts_with("models--")) continue;
    try {
      return Folder::open_if_there((repository / "blobs").string());
    } catch (const SystemError&) {
      return std::nullopt;
    }
  }
  return std::nullopt;
}

bool same_folder(const Folder& a, const Folder& b) {
  const FileIdentity first = a.status().identity;
  const FileIdentity second = b.status().identity;
  return first.device == second.device && first.inode == second.inode;
}

}  // namespace

ModelFolder::ModelFolder(const std::string& path) : folder_(path), blobs_(blobs_of(folder_.path())) {}

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
                  folder_.path_of(name), code ? std::string("another place") : target.string()));
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

#include "core/files/atomic_file.h"
#include "core/counted.h"
#include "core/files/file_status.h"
#include "core/files/held_folder.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <filesystem>
#include <utility>

namespace metal_marlin {
namespace {

constexpr std::string_view kStart = ".metal-marlin-";
constexpr std::string_view kEnd = ".tmp";
constexpr size_t kDigits = 16;

struct Temporary {
  std::string name;
  UniqueFd fd;
};

Temporary create_temporary(const Folder& folder, uint32_t permissions, const std::string& path) {
  remove_leftovers(folder);
  // Another process may take the new file for a leftover in the moment before it is locked: then the next name.
  for (int attempt = 0; attempt < 16; ++attempt) {
    Temporary t{fmt::format("{}{}{}", kStart, random_name(), kEnd), {}};
    try {
      t.fd = folder.create_file(t.name, permissions);
    } catch (const SystemError& e) {
      const std::string text = e.what();
      const size_t reason = text.rfind(": cannot create");
      throw SystemError(path + (reason == std::string::npos ? ": " + text : text.substr(reason)));
    }
    if (lock_file(t.fd) == LockResult::kHeldByAnother) continue;
    if (folder.status(t.name).identity.inode == status_of(t.fd, path).identity.inode) return t;
  }
  throw SystemError(fmt::format("{}: cannot create: its temporary files vanish", path));
}

}  // namespace

std::string folder_of(const std::string& path) {
  const auto parent = std::filesystem::path(path).parent_path();
  return parent.empty() ? "." : parent.string();
}

bool is_temporary_name(std::string_view name) noexcept {
  if (name.size() != kStart.size() + kDigits + kEnd.size() || !name.starts_with(kStart) || !name.ends_with(kEnd))
    return false;
  const std::string_view digits = name.substr(kStart.size(), kDigits);
  return digits.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

void remove_leftovers(const Folder& folder) {
  for (const std::string& name : folder.names()) {
    if (!is_temporary_name(name)) continue;
    try {
      const FileStatus seen = folder.status(name);
      if (seen.kind != FileKind::kRegular || !seen.own || seen.links != 1) continue;
      const UniqueFd fd = folder.open_file(name);
      // Where the file system has no locks, nobody can know that the writer is gone.
      if (lock_file(fd) == LockResult::kTaken) folder.remove_file(name);
    } catch (const SystemError&) {
      continue;  // its writer has just renamed or removed it
    }
  }
}

AtomicFile::AtomicFile(std::string path)
    : path_(std::move(path)), folder_([&] {
        try {
          return open_held(folder_of(path_));
        } catch (const SystemError& e) {
          throw SystemError(fmt::format("{}: cannot create: {}", path_, e.what()));
        }
      }()) {
  Temporary t = create_temporary(folder_, 0644, path_);
  temporary_ = std::move(t.name);
  fd_ = std::move(t.fd);
}

AtomicFile::~AtomicFile() {
  if (!fd_) return;
  try {
    folder_.remove_file(temporary_);  // before the lock ends
  } catch (const SystemError&) {
    return;  // the next AtomicFile in this folder removes it
  }
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  write_bytes(fd_, bytes, path_);
  position_ += bytes.size();
}

void AtomicFile::write(std::string_view text) {
  write(std::as_bytes(std::span<const char>(text.data(), text.size())));
}

void AtomicFile::commit() {
  const std::string name = std::filesystem::path(path_).filename().string();
  if (!is_plain_name(name)) throw SystemError(fmt::format("{}: expected the name of a file", path_));
  sync_file(fd_, path_);
  if (const int code = folder_.try_rename(temporary_, folder_, name); code != 0)
    fail_with(path_, "rename into place", code);
  if (!fd_.close()) throw SystemError(fmt::format("{}: cannot close: the system reports an error", path_));
  folder_.sync();
}

UniqueFd open_scratch_file(const std::string& path) {
  const Folder folder = open_held(folder_of(path));
  Temporary t = create_temporary(folder, 0600, path);
  folder.remove_file(t.name);
  return std::move(t.fd);
}

std::string read_text_file(const UniqueFd& fd, const std::string& path, uint64_t limit) {
  const FileIdentity before = status_of(fd, path).identity;
  if (before.size > limit)
    throw SystemError(fmt::format("{}: {}, expected at most {}", path, counted(before.size, "byte"), limit));
  std::string text(before.size, '\0');
  const size_t done = read_bytes(fd, text.data(), text.size(), path);
  const FileIdentity after = status_of(fd, path).identity;
  if (done != text.size() || after != before) {
    throw SystemError(fmt::format("{}: changed while it was read ({}, now {}); run the command again", path,
                                  counted(before.size, "byte"), after.size));
  }
  return text;
}

std::string read_text_file(const std::string& path, uint64_t limit) {
  return read_text_file(open_regular_file(path), path, limit);
}

void write_text_file(const std::string& path, std::string_view text) {
  AtomicFile file(path);
  file.write(text);
  file.commit();
}

void require_regular_file_name(const std::string& path) {
  std::error_code code;
  const auto status = std::filesystem::status(path, code);
  if (std::filesystem::exists(status) && !std::filesystem::is_regular_file(status)) {
    throw SystemError(fmt::format("{}: expected a file to write, found {}", path,
                                  std::filesystem::is_directory(status) ? "a folder" : "a device or the like"));
  }
  if (const std::string folder = folder_of(path); !std::filesystem::is_directory(folder, code)) {
    throw SystemError(fmt::format("{}: cannot create: there is no folder {}", path, folder));
  }
}

void create_folders(const std::string& path) {
  std::error_code code;
  std::filesystem::create_directories(path, code);
  if (code || !is_folder(path)) {
    throw SystemError(fmt::format("{}: cannot create the folder: {}", path,
                                  code ? code.message() : std::string("a file of that name exists")));
  }
}

void sync_folder(const std::string& path) {
  try {
    Folder(path).sync();
  } catch (const SystemError&) {
    return;  // some file systems do not open folders; the rename itself has been done
  }
}

}  // namespace metal_marlin

#include "platform/folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <metal_marlin/error.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "platform/system_calls.h"

namespace metal_marlin {
namespace {

// Of folders to remove: each level holds a descriptor and a part of the stack. Ours have three.
constexpr int kDeepestTree = 32;

constexpr int kFolderFlags = O_RDONLY | O_DIRECTORY | O_CLOEXEC;

LockResult lock_descriptor(int fd) noexcept {
  while (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    if (errno == EINTR) continue;
    return errno == EWOULDBLOCK ? LockResult::kHeldByAnother : LockResult::kNotSupported;
  }
  return LockResult::kTaken;
}

void remove_levels(const Folder& folder, const std::string& name, int levels) {
  const FileKind kind = folder.status(name).kind;
  if (kind == FileKind::kNone) return;
  if (kind != FileKind::kFolder) {
    folder.remove_file(name);
    return;
  }
  if (levels == 0)
    throw SystemError(fmt::format("{}: expected folders of at most {} levels to remove, found more; remove it yourself",
                                  folder.path_of(name), kDeepestTree));
  {
    const Folder inside = folder.open_folder(name);
    for (const std::string& entry : inside.names()) remove_levels(inside, entry, levels - 1);
  }
  folder.remove_empty(name);
}

}  // namespace

bool is_plain_name(const std::string& name) noexcept {
  return !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos &&
         name.find('\0') == std::string::npos;
}

Folder::Folder(const std::string& path) : path_(path.empty() ? "." : path) {
  fd_ = UniqueFd(open(path_.c_str(), kFolderFlags));
  if (!fd_) fail_with(path_, "open the folder", errno);
}

std::optional<Folder> Folder::open_if_there(const std::string& path) {
  UniqueFd fd(open(path.c_str(), kFolderFlags));
  if (fd) return Folder(std::move(fd), path);
  if (errno == ENOENT) return std::nullopt;
  fail_with(path, "open the folder", errno);
}

std::string Folder::path_of(const std::string& name) const {
  return path_ == "." ? name : path_.ends_with('/') ? path_ + name : path_ + "/" + name;
}

FileStatus Folder::status(const std::string& name) const {
  struct stat info {};
  if (fstatat(fd_.get(), name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0) {
    if (errno == ENOENT) return {};
    fail_with(path_of(name), "look at it", errno);
  }
  return platform::status_from(info);
}

std::vector<std::string> Folder::names() const {
  UniqueFd copy(openat(fd_.get(), ".", kFolderFlags));
  if (!copy) fail_with(path_, "read the folder", errno);
  const std::unique_ptr<DIR, int (*)(DIR*)> stream(fdopendir(copy.get()), closedir);
  if (stream == nullptr) fail_with(path_, "read the folder", errno);
  copy.release();  // the stream closes it
  std::vector<std::string> out;
  for (errno = 0; const dirent* entry = readdir(stream.get()); errno = 0) {
    const std::string name = entry->d_name;
    if (name != "." && name != "..") out.push_back(name);
  }
  if (errno != 0) fail_with(path_, "read the folder", errno);
  std::sort(out.begin(), out.end());
  return out;
}

Folder Folder::open_folder(const std::string& name) const {
  UniqueFd fd(openat(fd_.get(), name.c_str(), kFolderFlags | O_NOFOLLOW));
  if (!fd) {
    const int code = errno;
    const FileKind kind = code == ENOTDIR || code == ELOOP ? status(name).kind : FileKind::kNone;
    if (kind == FileKind::kNone) fail_with(path_of(name), "open the folder", code);
    throw SystemError(fmt::format("{}: expected a folder, found {}", path_of(name), kind_name(kind)));
  }
  return Folder(std::move(fd), name == "." ? path_ : path_of(name));
}

Folder Folder::make_folder(const std::string& name) const {
  if (mkdirat(fd_.get(), name.c_str(), 0777) != 0) fail_with(path_of(name), "create the folder", errno);
  return open_folder(name);
}

UniqueFd Folder::open_file(const std::string& name) const {
  UniqueFd fd(openat(fd_.get(), name.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY));
  if (!fd) {
    const int code = errno;
    const FileKind kind = code == ELOOP || code == ENXIO ? status(name).kind : FileKind::kNone;
    if (kind == FileKind::kNone)
      throw SystemError(fmt::format("{}: cannot open: {}", path_of(name), std::strerror(code)));
    throw SystemError(fmt::format("{}: expected a regular file, found {}", path_of(name), kind_name(kind)));
  }
  if (const FileKind kind = status_of(fd, path_of(name)).kind; kind != FileKind::kRegular)
    throw SystemError(fmt::format("{}: expected a regular file, found {}", path_of(name), kind_name(kind)));
  return fd;
}

UniqueFd Folder::create_file(const std::string& name, uint32_t permissions) const {
  UniqueFd fd(openat(fd_.get(), name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
                     static_cast<mode_t>(permissions)));
  if (!fd) fail_with(path_of(name), "create", errno);
  return fd;
}

int Folder::try_rename(const std::string& name, const Folder& to, const std::string& to_name) const noexcept {
  return renameat(fd_.get(), name.c_str(), to.fd_.get(), to_name.c_str()) == 0 ? 0 : errno;
}

void Folder::rename(const std::string& name, const Folder& to, const std::string& to_name) const {
  if (const int code = try_rename(name, to, to_name); code != 0)
    fail_with(to.path_of(to_name), "rename into place", code);
}

int Folder::try_exchange(const std::string& name, const Folder& to, const std::string& to_name) const noexcept {
  return platform::exchange_names(fd_.get(), name.c_str(), to.fd_.get(), to_name.c_str());
}

void Folder::remove_file(const std::string& name) const {
  if (unlinkat(fd_.get(), name.c_str(), 0) != 0 && errno != ENOENT) fail_with(path_of(name), "remove", errno);
}

bool Folder::remove_empty(const std::string& name) const {
  if (unlinkat(fd_.get(), name.c_str(), AT_REMOVEDIR) == 0 || errno == ENOENT) return true;
  if (errno == ENOTEMPTY || errno == EEXIST) return false;
  fail_with(path_of(name), "remove", errno);
}

void Folder::remove_tree(const std::string& name) const {
  remove_levels(*this, name, kDeepestTree);
}

void Folder::sync() const noexcept {
  platform::sync_descriptor(fd_.get());  // some file systems do not flush folders; the rename itself has been done
}

void Folder::set_permissions(uint32_t permissions) const noexcept {
  // Without effect where the system forbids it: the content is what counts.
  static_cast<void>(fchmod(fd_.get(), static_cast<mode_t>(permissions)));
}

LockResult Folder::lock() const noexcept {
  return lock_descriptor(fd_.get());
}

LockResult lock_file(const UniqueFd& fd) noexcept {
  return lock_descriptor(fd.get());
}

}  // namespace metal_marlin

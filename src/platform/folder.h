// An open folder. Everything inside it is reached by plain names relative to the folder that was opened, and never
// through a symbolic link: whoever renames or replaces the folder's path in the meantime changes nothing of that.
// All errors are SystemError with the path and the system's reason.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "platform/file.h"
#include "platform/unique_fd.h"

namespace metal_marlin {

// No slash, not "." or "..", not empty, no zero byte.
bool is_plain_name(const std::string& name) noexcept;

enum class LockResult : uint8_t { kTaken, kHeldByAnother, kNotSupported };

class Folder {
 public:
  // Follows links: the caller names the folder. "" is the working directory.
  explicit Folder(const std::string& path);
  // The same, or nothing where `path` names nothing.
  static std::optional<Folder> open_if_there(const std::string& path);

  const std::string& path() const noexcept { return path_; }
  std::string path_of(const std::string& name) const;  // for messages
  FileStatus status() const { return status_of(fd_, path_); }
  FileStatus status(const std::string& name) const;  // of the entry itself, not of what a link points to
  std::vector<std::string> names() const;            // ascending, without "." and ".."

  Folder open_folder(const std::string& name) const;
  Folder make_folder(const std::string& name) const;  // SystemError when the name is taken
  UniqueFd open_file(const std::string& name) const;  // for reading, as open_regular_file
  // A new file for reading and writing; SystemError when the name is taken, by whatever.
  UniqueFd create_file(const std::string& name, uint32_t permissions = 0644) const;
  // What `to_name` names is replaced (a link itself, not its target).
  void rename(const std::string& name, const Folder& to, const std::string& to_name) const;
  // The same as a code of the system (errno), 0: done. For the caller to decide.
  int try_rename(const std::string& name, const Folder& to, const std::string& to_name) const noexcept;
  // The two names change places at once. 0: done; else the system's code, and nothing has happened.
  int try_exchange(const std::string& name, const Folder& to, const std::string& to_name) const noexcept;
  void remove_file(const std::string& name) const;   // nothing there: well
  bool remove_empty(const std::string& name) const;  // a folder; false: it is not empty
  // A file, a link (not its target), or a folder with all that is in it. Nothing there: well.
  void remove_tree(const std::string& name) const;
  void sync() const noexcept;  // renames and removals are on the disk then
  void set_permissions(uint32_t permissions) const noexcept;

  // A lock on the folder itself, which ends with this object or the process. Does not wait.
  LockResult lock() const noexcept;

 private:
  Folder(UniqueFd fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}

  UniqueFd fd_;
  std::string path_;
};

// A lock on an open file, as Folder::lock.
LockResult lock_file(const UniqueFd& fd) noexcept;

}  // namespace metal_marlin

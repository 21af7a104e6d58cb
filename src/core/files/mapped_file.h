// A file mapped read-only into memory, and known by its device, inode, size and time of change.
#pragma once

#include <metal_marlin/error.h>

#include <cstddef>
#include <span>
#include <string>

#include "platform/file.h"
#include "platform/mapping.h"

namespace metal_marlin {

class MappedFile {
 public:
  MappedFile() = default;
  // Throws SystemError (with the path and the system's reason) when the file cannot be opened or is no regular file.
  explicit MappedFile(const std::string& path);
  // `fd`: of an open regular file; `path`: for messages.
  MappedFile(UniqueFd fd, std::string path);

  const std::string& path() const noexcept { return path_; }
  const FileIdentity& identity() const noexcept { return identity_; }
  // Where the file becomes shorter meanwhile, reading gives zeros and no signal. So: copy out of bytes(), then call
  // check_unchanged(), then use the copy.
  std::span<const std::byte> bytes() const noexcept { return mapping_.bytes(); }
  // SystemError naming the file when it is no longer what it was when it was opened.
  void check_unchanged() const;
  // What `read` makes of bytes(), then check_unchanged(), which counts more than an error of `read`.
  template <typename Read>
  auto checked(const Read& read) const -> decltype(read()) {
    try {
      auto out = read();
      check_unchanged();
      return out;
    } catch (const Error&) {
      check_unchanged();
      throw;
    }
  }
  // Tells the system that `part` (of bytes()) will not be needed soon: its pages leave the resident set.
  void release(std::span<const std::byte> part) const noexcept { mapping_.release(part); }

 private:
  std::string path_;
  UniqueFd fd_;
  FileIdentity identity_;
  Mapping mapping_;
};

}  // namespace metal_marlin

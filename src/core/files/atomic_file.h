// Files that appear whole or not at all: written under a temporary name in the same folder, flushed, renamed, and the
// folder flushed. An AtomicFile that is destroyed without commit() removes its temporary file.
//
// A temporary file is called .metal-marlin-XXXXXXXXXXXXXXXX.tmp with 16 hexadecimal digits that nobody can guess, is
// created exclusively and stays locked while its process lives. What a killed process left is known by that: the name,
// the owner, and that nobody holds the lock. The next AtomicFile in the same folder removes it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "platform/folder.h"

namespace metal_marlin {

class AtomicFile {
 public:
  // Throws SystemError with path and reason.
  explicit AtomicFile(std::string path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(std::span<const std::byte> bytes);  // appends
  void write(std::string_view text);
  uint64_t position() const noexcept { return position_; }
  // What `path` names is replaced; a symbolic link is replaced itself, not the file that it points to.
  void commit();

 private:
  std::string path_;
  Folder folder_;
  std::string temporary_;
  UniqueFd fd_;
  uint64_t position_ = 0;
};

// An empty file without a name for as long as it is open, in the folder of `path`.
UniqueFd open_scratch_file(const std::string& path);
// Whether a file of this name can only be a temporary one of this program.
bool is_temporary_name(std::string_view name) noexcept;
// Removes the temporary files that killed processes left in `folder`.
void remove_leftovers(const Folder& folder);

// The whole of a small file; throws SystemError when it cannot be read, is no regular file, exceeds `limit` bytes or
// changes meanwhile.
std::string read_text_file(const std::string& path, uint64_t limit = uint64_t{1} << 30);
std::string read_text_file(const UniqueFd& fd, const std::string& path, uint64_t limit = uint64_t{1} << 30);
// write + commit in one call.
void write_text_file(const std::string& path, std::string_view text);
// SystemError when `path` names a folder, a device or the like, which an AtomicFile would replace or fail on at its
// end, or lies in a folder that is not there.
void require_regular_file_name(const std::string& path);
void create_folders(const std::string& path);
void sync_folder(const std::string& path);
// The folder that `path` lies in; "." for a bare name.
std::string folder_of(const std::string& path);

}  // namespace metal_marlin

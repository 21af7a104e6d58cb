// Files that appear whole or not at all: written under a temporary name in the same folder, fsync, rename, fsync of
// the folder. An AtomicFile that is destroyed without commit() removes its temporary file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace metal_marlin {

class AtomicFile {
 public:
  // Throws SystemError with path and reason. The temporary name is `path` + ".tmp".
  explicit AtomicFile(std::string path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(std::span<const std::byte> bytes);  // appends
  void write(std::string_view text);
  uint64_t position() const noexcept { return position_; }
  void commit();  // fsync, rename, fsync of the folder

 private:
  [[noreturn]] void fail(const char* what) const;

  std::string path_;
  std::string temporary_;
  int fd_ = -1;
  uint64_t position_ = 0;
};

// The whole of a small file; throws SystemError when it cannot be read or exceeds `limit` bytes.
std::string read_text_file(const std::string& path, uint64_t limit = uint64_t{1} << 30);
// write + commit in one call.
void write_text_file(const std::string& path, std::string_view text);
// SystemError when `path` names a folder, a device or the like, which an AtomicFile would replace or fail on at its
// end, or lies in a folder that is not there.
void require_regular_file_name(const std::string& path);
void create_folders(const std::string& path);
void sync_folder(const std::string& path);

}  // namespace metal_marlin

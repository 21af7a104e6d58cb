// Single files: opening, reading and writing whole ranges, flushing, identity. All errors are SystemError with the
// path and the system's reason.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "platform/unique_fd.h"

namespace metal_marlin {

// Tells one file and one state of it from another.
struct FileIdentity {
  uint64_t device = 0;
  uint64_t inode = 0;
  uint64_t size = 0;
  int64_t changed_ns = 0;  // time of the last change of its content

  bool operator==(const FileIdentity&) const = default;
};

enum class FileKind : uint8_t { kNone, kRegular, kFolder, kLink, kOther };

struct FileStatus {
  FileKind kind = FileKind::kNone;
  FileIdentity identity;
  uint64_t links = 0;
  uint32_t permissions = 0;
  bool own = false;  // belongs to the user of this process
};

// "a folder", "a symbolic link", "a pipe, device or socket", ...
const char* kind_name(FileKind kind) noexcept;

FileStatus status_of(const UniqueFd& fd, const std::string& path);
// Opens for reading. Never waits: a pipe, a device and a folder are refused at once. Follows links.
UniqueFd open_regular_file(const std::string& path);
// At most `size` bytes from the current position; less only at the end of the file.
size_t read_bytes(const UniqueFd& fd, void* out, size_t size, const std::string& path);
void write_bytes(const UniqueFd& fd, std::span<const std::byte> bytes, const std::string& path);
// All of [offset, offset + size); SystemError at the end of the file.
void read_at(const UniqueFd& fd, void* out, size_t size, uint64_t offset, const std::string& path);
void write_at(const UniqueFd& fd, const void* from, size_t size, uint64_t offset, const std::string& path);
// The content is on the disk when this returns (on macOS too, where fsync alone does not promise that).
void sync_file(const UniqueFd& fd, const std::string& path);
// Reserves the disk blocks of [0, bytes), so that writing there cannot run out of space.
void reserve_file(const UniqueFd& fd, uint64_t bytes, const std::string& path);

// "PATH: cannot WHAT: REASON" with the system's reason `code` (errno).
[[noreturn]] void fail_with(const std::string& path, const char* what, int code);

// 16 hexadecimal digits that nobody can guess.
std::string random_name();

}  // namespace metal_marlin

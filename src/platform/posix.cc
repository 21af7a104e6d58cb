// What all POSIX systems share.
#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <metal_marlin/error.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <limits>
#include <random>

#include "platform/access.h"
#include "platform/file.h"
#include "platform/machine.h"
#include "platform/system_calls.h"
#include "platform/unique_fd.h"

namespace metal_marlin {

void UniqueFd::reset() noexcept {
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
}

bool UniqueFd::close() noexcept {
  return fd_ < 0 || ::close(std::exchange(fd_, -1)) == 0;
}

void fail_with(const std::string& path, const char* what, int code) {
  const char* advice = code == ENOSPC ? "; free some space and run the same command again" : "";
  throw SystemError(fmt::format("{}: cannot {}: {}{}", path, what, std::strerror(code), advice));
}

const char* kind_name(FileKind kind) noexcept {
  switch (kind) {
    case FileKind::kNone:
      return "nothing";
    case FileKind::kRegular:
      return "a file";
    case FileKind::kFolder:
      return "a folder";
    case FileKind::kLink:
      return "a symbolic link";
    case FileKind::kOther:
      break;
  }
  return "a pipe, device or socket";
}

FileStatus platform::status_from(const struct stat& info) noexcept {
  FileStatus out;
  out.kind = S_ISREG(info.st_mode)   ? FileKind::kRegular
             : S_ISDIR(info.st_mode) ? FileKind::kFolder
             : S_ISLNK(info.st_mode) ? FileKind::kLink
                                     : FileKind::kOther;
  out.identity = {static_cast<uint64_t>(info.st_dev), static_cast<uint64_t>(info.st_ino),
                  static_cast<uint64_t>(info.st_size), change_time_ns(info)};
  out.links = static_cast<uint64_t>(info.st_nlink);
  out.permissions = static_cast<uint32_t>(info.st_mode & 07777);
  out.own = info.st_uid == geteuid();
  return out;
}

FileStatus status_of(const UniqueFd& fd, const std::string& path) {
  struct stat info {};
  if (fstat(fd.get(), &info) != 0) fail_with(path, "look at it", errno);
  return platform::status_from(info);
}

UniqueFd open_regular_file(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  if (!fd) {
    // A socket, or a device without a driver: the kind says more than the system's reason.
    if (errno == ENXIO) throw SystemError(fmt::format("{}: expected a regular file", path));
    throw SystemError(fmt::format("{}: cannot open: {}", path, std::strerror(errno)));
  }
  if (const FileKind kind = status_of(fd, path).kind; kind != FileKind::kRegular)
    throw SystemError(fmt::format("{}: expected a regular file, found {}", path, kind_name(kind)));
  return fd;
}

size_t read_bytes(const UniqueFd& fd, void* out, size_t size, const std::string& path) {
  size_t done = 0;
  while (done < size) {
    const ssize_t n = read(fd.get(), static_cast<char*>(out) + done, size - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_with(path, "read", errno);
    if (n == 0) break;
    done += static_cast<size_t>(n);
  }
  return done;
}

void write_bytes(const UniqueFd& fd, std::span<const std::byte> bytes, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t n = write(fd.get(), bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_with(path, "write", errno);
    bytes = bytes.subspan(static_cast<size_t>(n));
  }
}

void read_at(const UniqueFd& fd, void* out, size_t size, uint64_t offset, const std::string& path) {
  for (size_t done = 0; done < size;) {
    const ssize_t n = pread(fd.get(), static_cast<char*>(out) + done, size - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_with(path, "read", errno);
    if (n == 0) throw SystemError(fmt::format("{}: cannot read: it ends at byte {}", path, offset + done));
    done += static_cast<size_t>(n);
  }
}

void write_at(const UniqueFd& fd, const void* from, size_t size, uint64_t offset, const std::string& path) {
  for (size_t done = 0; done < size;) {
    const ssize_t n =
        pwrite(fd.get(), static_cast<const char*>(from) + done, size - done, static_cast<off_t>(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_with(path, "write", errno);
    done += static_cast<size_t>(n);
  }
}

void sync_file(const UniqueFd& fd, const std::string& path) {
  if (const int code = platform::sync_descriptor(fd.get()); code != 0) fail_with(path, "flush to disk", code);
}

void reserve_file(const UniqueFd& fd, uint64_t bytes, const std::string& path) {
  if (bytes == 0) return;
  if (const int code = platform::reserve_descriptor(fd.get(), static_cast<int64_t>(bytes)); code != 0)
    throw SystemError(fmt::format("{}: cannot reserve {} MiB: {}", path, bytes >> 20, std::strerror(code)));
}

std::string random_name() {
  std::random_device source;  // the system's generator
  return fmt::format("{:08x}{:08x}", static_cast<uint32_t>(source()), static_cast<uint32_t>(source()));
}

uint64_t peak_resident_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return platform::peak_rss_bytes(usage.ru_maxrss);
}

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

double wall_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

uint64_t free_disk_bytes(const std::string& path) {
  struct statvfs info {};
  std::filesystem::path place = path.empty() ? "." : path;
  while (statvfs(place.c_str(), &info) != 0) {
    const std::filesystem::path parent = place.parent_path();
    const std::filesystem::path above = parent.empty() ? "." : parent;
    if (above == place) return std::numeric_limits<uint64_t>::max();
    place = above;
  }
  return static_cast<uint64_t>(info.f_bavail) * info.f_frsize;
}

std::string refusal_to_write(const std::string& path) {
  if (faccessat(AT_FDCWD, path.c_str(), W_OK | X_OK, AT_EACCESS) == 0) return {};
  return std::strerror(errno);
}

}  // namespace metal_marlin

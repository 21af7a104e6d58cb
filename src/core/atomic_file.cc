#include "core/atomic_file.h"
#include "core/file_status.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <metal_marlin/error.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

namespace metal_marlin {
namespace {

std::string folder_of(const std::string& path) {
  const auto parent = std::filesystem::path(path).parent_path();
  return parent.empty() ? "." : parent.string();
}

}  // namespace

AtomicFile::AtomicFile(std::string path) : path_(std::move(path)), temporary_(path_ + ".tmp") {
  fd_ = open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd_ < 0) fail("cannot create");
}

AtomicFile::~AtomicFile() {
  if (fd_ < 0) return;
  close(fd_);
  unlink(temporary_.c_str());
}

void AtomicFile::fail(const char* what) const {
  const int reason = errno;
  const char* advice = reason == ENOSPC ? "; free some space and run the same command again" : "";
  throw SystemError(fmt::format("{}: {}: {}{}", path_, what, std::strerror(reason), advice));
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd_, bytes.data(), bytes.size());
    if (n < 0) {
      if (errno == EINTR) continue;
      fail("cannot write");
    }
    bytes = bytes.subspan(static_cast<size_t>(n));
    position_ += static_cast<uint64_t>(n);
  }
}

void AtomicFile::write(std::string_view text) {
  write(std::as_bytes(std::span<const char>(text.data(), text.size())));
}

void AtomicFile::commit() {
  if (fsync(fd_) != 0) fail("cannot flush to disk");
  if (close(fd_) != 0) {
    fd_ = -1;
    unlink(temporary_.c_str());
    fail("cannot close");
  }
  fd_ = -1;
  if (rename(temporary_.c_str(), path_.c_str()) != 0) {
    const int reason = errno;
    unlink(temporary_.c_str());
    errno = reason;
    fail("cannot rename into place");
  }
  sync_folder(folder_of(path_));
}

std::string read_text_file(const std::string& path, uint64_t limit) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) throw SystemError(fmt::format("{}: cannot open: {}", path, std::strerror(errno)));
  struct stat info {};
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    close(fd);
    throw SystemError(fmt::format("{}: expected a regular file", path));
  }
  if (static_cast<uint64_t>(info.st_size) > limit) {
    close(fd);
    throw SystemError(fmt::format("{}: {} bytes, expected at most {}", path, info.st_size, limit));
  }
  std::string text(static_cast<size_t>(info.st_size), '\0');
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t n = read(fd, text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      const int reason = errno;
      close(fd);
      throw SystemError(fmt::format("{}: cannot read: {}", path, std::strerror(reason)));
    }
    if (n == 0) break;
    done += static_cast<size_t>(n);
  }
  close(fd);
  text.resize(done);
  return text;
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
  const int fd = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;  // some file systems do not open folders; the rename itself has been done
  fsync(fd);
  close(fd);
}

}  // namespace metal_marlin

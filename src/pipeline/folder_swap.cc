#include "pipeline/folder_swap.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <metal_marlin/error.h>
#include <stdio.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "core/atomic_file.h"
#include "core/file_status.h"

namespace metal_marlin {
namespace {

namespace fs = std::filesystem;

std::string plain(const std::string& path) {
  std::string out = absolute_path(path).lexically_normal().string();
  while (out.size() > 1 && out.back() == '/') out.pop_back();
  return out;
}

[[noreturn]] void fail(const std::string& path, const char* what, int code) {
  throw SystemError(fmt::format("{}: cannot {}: {}", path, what, std::strerror(code)));
}

void remove_all(const std::string& path) {
  std::error_code code;
  fs::remove_all(path, code);
  if (code) throw SystemError(fmt::format("{}: cannot remove: {}", path, code.message()));
}

bool exchange(const std::string& a, const std::string& b) {
#ifdef RENAME_EXCHANGE
  return renameat2(AT_FDCWD, a.c_str(), AT_FDCWD, b.c_str(), RENAME_EXCHANGE) == 0;
#else
  static_cast<void>(a);
  static_cast<void>(b);
  return false;
#endif
}

}  // namespace

FolderSwap::FolderSwap(const std::string& target) : target_(plain(target)) {
  const fs::path p(target_);
  create_folders(p.parent_path().string());
  temporary_ = (p.parent_path() / ("." + p.filename().string() + ".incomplete")).string();
  for (int attempt = 0; attempt < 2; ++attempt) {
    create_folders(temporary_);
    lock_ = open(temporary_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (lock_ < 0) fail(temporary_, "open", errno);
    if (flock(lock_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
      close(lock_);
      throw SystemError(
          fmt::format("{}: another process is writing it; wait for it, or choose another folder", target_));
    }
    for (const fs::path& entry : entries_of(temporary_)) remove_all(entry.string());
    // The other process may have moved or removed the folder between our look and our lock.
    std::error_code code;
    if (fs::exists(temporary_, code)) return;
    close(lock_);
    lock_ = -1;
  }
  throw SystemError(fmt::format("{}: another process is writing it; wait for it, or choose another folder", target_));
}

FolderSwap::~FolderSwap() {
  std::error_code ignored;
  if (!placed_) fs::remove_all(temporary_, ignored);
  if (lock_ >= 0) close(lock_);
}

void FolderSwap::place() {
  const std::string parent = fs::path(target_).parent_path().string();
  std::error_code code;
  if (!fs::exists(target_, code)) {
    if (rename(temporary_.c_str(), target_.c_str()) != 0) fail(target_, "rename the finished folder", errno);
    placed_ = true;
    sync_folder(parent);
    return;
  }
  if (!exchange(temporary_, target_)) {
    const std::string old = temporary_ + ".old";
    remove_all(old);
    if (rename(target_.c_str(), old.c_str()) != 0) fail(target_, "move away", errno);
    if (rename(temporary_.c_str(), target_.c_str()) != 0) {
      const int reason = errno;
      if (rename(old.c_str(), target_.c_str()) != 0) fail(old, "move back", errno);
      fail(target_, "rename the finished folder", reason);
    }
    placed_ = true;
    sync_folder(parent);
    remove_all(old);
    return;
  }
  placed_ = true;
  sync_folder(parent);
  remove_all(temporary_);  // now the old content
}

}  // namespace metal_marlin

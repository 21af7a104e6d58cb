// Linux.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <fstream>
#include <limits>
#include <string>

#include "platform/machine.h"
#include "platform/system_calls.h"

namespace metal_marlin::platform {

int sync_descriptor(int fd) noexcept {
  return fsync(fd) == 0 ? 0 : errno;
}

int reserve_descriptor(int fd, int64_t bytes) noexcept {
  return posix_fallocate(fd, 0, bytes);
}

int exchange_names(int from_folder, const char* from, int to_folder, const char* to) noexcept {
#ifdef RENAME_EXCHANGE
  return renameat2(from_folder, from, to_folder, to, RENAME_EXCHANGE) == 0 ? 0 : errno;
#else
  static_cast<void>(from_folder);
  static_cast<void>(from);
  static_cast<void>(to_folder);
  static_cast<void>(to);
  return ENOSYS;
#endif
}

void advise_huge_pages(void* data, uint64_t bytes) noexcept {
#ifdef MADV_HUGEPAGE
  madvise(data, bytes, MADV_HUGEPAGE);
#else
  static_cast<void>(data);
  static_cast<void>(bytes);
#endif
}

int64_t change_time_ns(const struct stat& info) noexcept {
  const auto& time = info.st_mtim;
  return static_cast<int64_t>(time.tv_sec) * 1'000'000'000 + time.tv_nsec;
}

uint64_t peak_rss_bytes(int64_t ru_maxrss) noexcept {
  return static_cast<uint64_t>(ru_maxrss) * 1024;
}

}  // namespace metal_marlin::platform

namespace metal_marlin {

std::string cpu_name() {
  std::ifstream file("/proc/cpuinfo");
  std::string line;
  while (std::getline(file, line)) {
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  }
  return "unknown";
}

uint64_t memory_bytes() {
  const auto pages = sysconf(_SC_PHYS_PAGES);
  const auto page = sysconf(_SC_PAGESIZE);
  uint64_t installed = pages > 0 && page > 0 ? static_cast<uint64_t>(pages) * static_cast<uint64_t>(page)
                                             : std::numeric_limits<uint64_t>::max();
  for (const char* path : {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    std::ifstream file(path);
    uint64_t limit = 0;
    if (file >> limit && limit > 0 && limit < installed) installed = limit;
  }
  return installed;
}

uint64_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  uint64_t total = 0;
  uint64_t resident = 0;
  if (!(file >> total >> resident)) return 0;
  return resident * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

bool request_amx_tiles() noexcept {
#if defined(__x86_64__) && defined(SYS_arch_prctl)
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

}  // namespace metal_marlin

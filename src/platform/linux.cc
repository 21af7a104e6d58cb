// Linux.
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "platform/machine.h"
#include "platform/system_calls.h"

extern "C" {
// What OpenBLAS runs when it is loaded and unloaded; absent where it was built for one processor.
void gotoblas_dynamic_init() __attribute__((weak));
void gotoblas_dynamic_quit() __attribute__((weak));
}

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

// The bits have their names in the kernel's headers for ARM alone, and the newer one not in all of them.
bool has_arm_dot_products() noexcept {
#if defined(__aarch64__)
  constexpr unsigned long kDotProducts = 1ul << 20;  // HWCAP_ASIMDDP
  return (getauxval(AT_HWCAP) & kDotProducts) != 0;
#else
  return false;
#endif
}

bool has_arm_matrix_products() noexcept {
#if defined(__aarch64__)
  constexpr unsigned long kMatrixProducts = 1ul << 13;  // HWCAP2_I8MM
  return (getauxval(AT_HWCAP2) & kMatrixProducts) != 0;
#else
  return false;
#endif
}

std::vector<int> affinity_numbers() {
  std::vector<int> numbers;
  // The kernel refuses a mask that is smaller than its own.
  for (int most = 1024; most <= 1 << 20 && numbers.empty(); most *= 4) {
    cpu_set_t* mask = CPU_ALLOC(static_cast<size_t>(most));
    if (mask == nullptr) break;
    const size_t bytes = CPU_ALLOC_SIZE(static_cast<size_t>(most));
    if (sched_getaffinity(0, bytes, mask) == 0) {
      for (int i = 0; i < most; ++i) {
        if (CPU_ISSET_S(i, bytes, mask)) numbers.push_back(i);
      }
    }
    CPU_FREE(mask);
  }
  return numbers;
}

int affinity_processors() {
  if (const auto n = static_cast<int>(affinity_numbers().size()); n > 0) return n;
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

int fast_cores() {
  return 0;
}

std::string control_groups() {
  std::ifstream file("/proc/self/cgroup");
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

bool can_restart_openblas() noexcept {
  return gotoblas_dynamic_init != nullptr && gotoblas_dynamic_quit != nullptr;
}

// OpenBLAS takes the name from the environment alone. setenv may move the table that another thread is reading, so the
// process gets a second table with one entry more for that moment, and the first one back, untouched. The second is
// never freed: somebody may hold a pointer into it.
void restart_openblas(const char* kernels) {
  static std::string entry;
  static std::vector<char*> table;
  entry = std::string("OPENBLAS_CORETYPE=") + kernels;
  char** before = environ;
  for (char** e = before; e != nullptr && *e != nullptr; ++e) table.push_back(*e);
  table.push_back(entry.data());
  table.push_back(nullptr);
  environ = table.data();
  gotoblas_dynamic_quit();
  gotoblas_dynamic_init();
  if (environ == table.data()) {
    environ = before;
  } else {
    unsetenv("OPENBLAS_CORETYPE");  // another thread has changed the environment meanwhile: its table stays
  }
}

}  // namespace metal_marlin

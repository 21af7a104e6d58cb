// macOS. Written from its documentation and not tested: the project has no such machine.
#include <errno.h>
#include <fcntl.h>
#include <mach/mach.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/sysctl.h>
#include <unistd.h>

#include <algorithm>
#include <limits>
#include <string>
#include <thread>

#include "platform/machine.h"
#include "platform/system_calls.h"

namespace metal_marlin::platform {

int sync_descriptor(int fd) noexcept {
  // fsync leaves the data in the drive's cache. Some file systems lack F_FULLFSYNC.
  if (fcntl(fd, F_FULLFSYNC) == 0) return 0;
  return fsync(fd) == 0 ? 0 : errno;
}

int reserve_descriptor(int fd, int64_t bytes) noexcept {
  fstore_t store = {F_ALLOCATEALL, F_PEOFPOSMODE, 0, static_cast<off_t>(bytes), 0};
  if (fcntl(fd, F_PREALLOCATE, &store) != 0) return errno;
  return ftruncate(fd, static_cast<off_t>(bytes)) == 0 ? 0 : errno;
}

int exchange_names(int from_folder, const char* from, int to_folder, const char* to) noexcept {
  return renameatx_np(from_folder, from, to_folder, to, RENAME_SWAP) == 0 ? 0 : errno;
}

void advise_huge_pages(void*, uint64_t) noexcept {}

int64_t change_time_ns(const struct stat& info) noexcept {
  const auto& time = info.st_mtimespec;
  return static_cast<int64_t>(time.tv_sec) * 1'000'000'000 + time.tv_nsec;
}

uint64_t peak_rss_bytes(int64_t ru_maxrss) noexcept {
  return static_cast<uint64_t>(ru_maxrss);  // bytes, where Linux counts KiB
}

}  // namespace metal_marlin::platform

namespace metal_marlin {

std::string cpu_name() {
  char name[256] = {};
  size_t size = sizeof name - 1;
  return sysctlbyname("machdep.cpu.brand_string", name, &size, nullptr, 0) == 0 ? std::string(name) : "unknown";
}

uint64_t memory_bytes() {
  uint64_t bytes = 0;
  size_t size = sizeof bytes;
  return sysctlbyname("hw.memsize", &bytes, &size, nullptr, 0) == 0 ? bytes : std::numeric_limits<uint64_t>::max();
}

uint64_t resident_bytes() {
  mach_task_basic_info info{};
  mach_msg_type_number_t count = MACH_TASK_BASIC_INFO_COUNT;
  const auto code = task_info(mach_task_self(), MACH_TASK_BASIC_INFO, reinterpret_cast<task_info_t>(&info), &count);
  return code == KERN_SUCCESS ? static_cast<uint64_t>(info.resident_size) : 0;
}

bool request_amx_tiles() noexcept {
  return false;
}

namespace {

// 1 where there is such a feature; an Intel processor or an old system has no such name.
bool has_feature(const char* name) noexcept {
  int value = 0;
  size_t size = sizeof value;
  return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value == 1;
}

}  // namespace

bool has_arm_dot_products() noexcept {
  return has_feature("hw.optional.arm.FEAT_DotProd");
}

bool has_arm_matrix_products() noexcept {
  return has_feature("hw.optional.arm.FEAT_I8MM");
}

// The system binds no process to processors.
int affinity_processors() {
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

std::vector<int> affinity_numbers() {
  return {};
}

int fast_cores() {
  int n = 0;
  for (const char* name : {"hw.perflevel0.physicalcpu", "hw.physicalcpu"}) {
    size_t size = sizeof n;
    if (sysctlbyname(name, &n, &size, nullptr, 0) == 0 && n > 0) return n;
  }
  return 0;
}

std::string control_groups() {
  return {};
}

bool can_restart_openblas() noexcept {
  return false;
}

void restart_openblas(const char*) {}

}  // namespace metal_marlin

// What differs between systems: implemented in linux.cc and macos.cc, used by this folder alone.
#pragma once

#include <sys/stat.h>

#include <cstdint>

#include "platform/file.h"

namespace metal_marlin::platform {

// Each returns 0, or the system's code (errno).
int sync_descriptor(int fd) noexcept;
int reserve_descriptor(int fd, int64_t bytes) noexcept;
int exchange_names(int from_folder, const char* from, int to_folder, const char* to) noexcept;
void advise_huge_pages(void* data, uint64_t bytes) noexcept;
// Of the last change of a file's content.
int64_t change_time_ns(const struct stat& info) noexcept;
uint64_t peak_rss_bytes(int64_t ru_maxrss) noexcept;

// In posix.cc, for both ways of asking.
FileStatus status_from(const struct stat& info) noexcept;

}  // namespace metal_marlin::platform

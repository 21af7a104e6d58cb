#include "core/mapped_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <metal_marlin/error.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <utility>

namespace metal_marlin {

MappedFile::MappedFile(const std::string& path) : path_(path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) throw SystemError(fmt::format("{}: cannot open: {}", path, std::strerror(errno)));
  struct stat info {};
  if (fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    close(fd);
    throw SystemError(fmt::format("{}: expected a regular file", path));
  }
  size_ = static_cast<size_t>(info.st_size);
  if (size_ > 0) {
    void* p = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd, 0);
    const int reason = errno;
    close(fd);
    if (p == MAP_FAILED) throw SystemError(fmt::format("{}: cannot map: {}", path, std::strerror(reason)));
    data_ = static_cast<const std::byte*>(p);
  } else {
    close(fd);
  }
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)), data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<std::byte*>(data_), size_);
}

void MappedFile::release(std::span<const std::byte> part) const noexcept {
  if (part.empty()) return;
  // Outwards: a fault maps the pages around it as well (64 KiB on Linux), and the edges of many small parts add up.
  // What belongs to a neighbour is mapped again when it is read.
  constexpr uintptr_t kAround = 64u << 10;
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto first = reinterpret_cast<uintptr_t>(bytes().data());
  const auto last = first + bytes().size();
  const auto begin = std::max(first, reinterpret_cast<uintptr_t>(part.data()) / kAround * kAround);
  const auto end =
      std::min(last, (reinterpret_cast<uintptr_t>(part.data()) + part.size() + kAround - 1) / kAround * kAround);
  const auto aligned = begin / page * page;
  if (end > aligned) madvise(reinterpret_cast<void*>(aligned), end - aligned, MADV_DONTNEED);
}

}  // namespace metal_marlin

// Mapped files and memory of the system.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "platform/unique_fd.h"

namespace metal_marlin {

// A file mapped for reading. Where the file becomes shorter while it is mapped, the system answers a read with SIGBUS.
// As long as a Mapping exists, a handler of ours turns that into zeros and notes it; SIGBUS of anything else goes to
// the handler that was there before. So: whoever has copied bytes out must ask lost() before using them.
class Mapping {
 public:
  Mapping() = default;
  // Maps `size` bytes of the file; SystemError with `path`.
  Mapping(const UniqueFd& fd, size_t size, const std::string& path);
  Mapping(Mapping&& other) noexcept;
  Mapping& operator=(Mapping&& other) noexcept;
  ~Mapping();
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  std::span<const std::byte> bytes() const noexcept { return {data_, size_}; }
  // A part of the file was gone when it was read: zeros were delivered in its place.
  bool lost() const noexcept;
  // The pages of `part` leave the resident set.
  void release(std::span<const std::byte> part) const noexcept;

  struct Guard;

 private:
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
  Guard* guard_ = nullptr;
};

// Zeroed memory straight from the system; nullptr when there is none.
std::byte* map_memory(size_t bytes) noexcept;
void unmap_memory(std::byte* data, size_t bytes) noexcept;
// Asks for large pages there; costs only time where that is refused.
void prefer_huge_pages(std::byte* data, size_t bytes) noexcept;

}  // namespace metal_marlin

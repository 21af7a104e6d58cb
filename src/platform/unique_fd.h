// The owner of a file descriptor: closes it when it goes.
#pragma once

#include <utility>

namespace metal_marlin {

class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) noexcept : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~UniqueFd() { reset(); }
  UniqueFd(const UniqueFd&) = delete;
  UniqueFd& operator=(const UniqueFd&) = delete;

  int get() const noexcept { return fd_; }
  explicit operator bool() const noexcept { return fd_ >= 0; }
  // Gives the descriptor to somebody else, who closes it.
  int release() noexcept { return std::exchange(fd_, -1); }
  void reset() noexcept;
  // Closes and says whether the system reported an error (some file systems write only then).
  bool close() noexcept;

 private:
  int fd_ = -1;
};

}  // namespace metal_marlin

// A folder that appears whole or not at all.
#pragma once

#include <string>

namespace metal_marlin {

// A temporary folder beside `target`, which place() moves to its place; without place() it is removed. What an
// interrupted process left there is removed at the start. One at a time for a target (a lock on the temporary folder):
// SystemError for the second.
class FolderSwap {
 public:
  explicit FolderSwap(const std::string& target);
  ~FolderSwap();
  FolderSwap(const FolderSwap&) = delete;
  FolderSwap& operator=(const FolderSwap&) = delete;

  const std::string& path() const noexcept { return temporary_; }
  // At no time is `target` without its old or its new content where the system can exchange two names (Linux); where
  // it cannot, it is missing for a moment. The old content is then removed.
  void place();

 private:
  std::string target_;
  std::string temporary_;
  int lock_ = -1;
  bool placed_ = false;
};

}  // namespace metal_marlin

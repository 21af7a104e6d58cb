// Folders that are made for a result and go again when no result comes into them.
#pragma once

#include <string>
#include <vector>

namespace metal_marlin {

class MadeFolders {
 public:
  MadeFolders() = default;
  // Makes the folder `path` and those above it that are missing. SystemError with path and reason: then none is left.
  explicit MadeFolders(const std::string& path);
  // Removes those that this object made and that are empty.
  ~MadeFolders() { remove_empty(); }
  MadeFolders(MadeFolders&& other) noexcept : made_(std::move(other.made_)) { other.made_.clear(); }
  MadeFolders& operator=(MadeFolders&& other) noexcept {
    made_.swap(other.made_);
    return *this;
  }
  MadeFolders(const MadeFolders&) = delete;
  MadeFolders& operator=(const MadeFolders&) = delete;

  // They stay, whatever is in them.
  void keep() noexcept { made_.clear(); }

 private:
  void remove_empty() noexcept;

  std::vector<std::string> made_;  // absolute, the highest first
};

}  // namespace metal_marlin

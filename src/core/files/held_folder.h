// Folders that stay the same for a whole run, whatever their paths come to name.
//
// Many parts of a run write below one folder, and name their files by paths. While a HeldFolder exists, the functions
// below reach everything below its path from the folder that was opened, step by step and never through a symbolic
// link. So whoever renames the folder, or puts another one or a link in its place, does not lead a run elsewhere.
// AtomicFile and open_scratch_file() work in the same way.
//
// A folder that is held inside another held one is the same, by device and inode, at each use: where its name leads to
// another folder meanwhile, or nowhere, these functions throw SystemError.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "platform/folder.h"

namespace metal_marlin {

class HeldFolder {
 public:
  // Holds `folder` under its path. Where two are held under one path, the later one counts.
  explicit HeldFolder(std::shared_ptr<const Folder> folder);
  ~HeldFolder();
  HeldFolder(const HeldFolder&) = delete;
  HeldFolder& operator=(const HeldFolder&) = delete;

  const Folder& folder() const noexcept { return *folder_; }

 private:
  std::shared_ptr<const Folder> folder_;
  uint64_t number_;
};

// Each takes a path, which no folder need be held for: then the system looks it up, links included.
Folder open_held(const std::string& path);
std::optional<Folder> open_held_if_there(const std::string& path);
// Makes the folder, and those above it, where they are missing.
Folder make_held(const std::string& path);
bool held_exists(const std::string& path);         // a file, a folder, a link
UniqueFd open_held_file(const std::string& path);  // as open_regular_file()

}  // namespace metal_marlin

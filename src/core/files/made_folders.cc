#include "core/files/made_folders.h"

#include <metal_marlin/error.h>

#include <filesystem>

#include "core/files/atomic_file.h"
#include "core/files/file_status.h"
#include "platform/folder.h"

namespace metal_marlin {

namespace fs = std::filesystem;

MadeFolders::MadeFolders(const std::string& path) {
  std::vector<fs::path> missing;  // the lowest first
  fs::path place = absolute_path(path);
  if (!place.has_filename()) place = place.parent_path();  // "a/b/"
  for (; place.has_relative_path() && !path_exists(place.string()); place = place.parent_path())
    missing.push_back(place);
  try {
    for (auto folder = missing.rbegin(); folder != missing.rend(); ++folder) {
      std::error_code code;
      if (fs::create_directory(*folder, code)) made_.push_back(folder->string());
    }
    create_folders(path);  // says what is wrong
  } catch (...) {
    remove_empty();
    throw;
  }
}

void MadeFolders::remove_empty() noexcept {
  try {
    for (; !made_.empty(); made_.pop_back()) {
      const fs::path folder(made_.back());
      if (!Folder(folder.parent_path().string()).remove_empty(folder.filename().string())) break;
    }
  } catch (const std::exception&) {
    // What cannot be removed stays, empty.
  }
  made_.clear();
}

}  // namespace metal_marlin

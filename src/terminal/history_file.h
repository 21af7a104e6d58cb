// What a person typed in earlier sessions, in a file that only this user can read.
#pragma once

#include <string>
#include <vector>

#include "platform/folder.h"

namespace metal_marlin {

// One text per line; a line feed in it is written as \n, a backslash as \\. The last kMost are kept, as far as they
// take at most kMostBytes. Neither the file nor its folder is reached through a link, and a file of another user is
// refused. Several sessions may add to one file. Throws SystemError with the path and the reason.
class HistoryFile {
 public:
  static constexpr size_t kMost = 1000;
  static constexpr size_t kMostBytes = size_t{1} << 20;

  // The file `history` in `folder`; an absolute path, of which what is missing is made when the first text comes.
  explicit HistoryFile(std::string folder);
  // $XDG_STATE_HOME/metal-marlin, else $HOME/.local/state/metal-marlin; empty where the environment has neither.
  static std::string default_folder();

  // Oldest first. Lines that no terminal should show (control characters, no UTF-8) are left out.
  std::vector<std::string> load() const;
  // One that equals the last is not added again. One that is too long, or that load() would leave out, is not kept.
  void add(const std::string& text) const;

 private:
  static std::vector<std::string> load_from(const Folder& folder);

  std::string folder_;
};

}  // namespace metal_marlin

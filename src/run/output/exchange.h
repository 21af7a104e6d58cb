// The new result and the old content change places: the staged result goes beside OUT, under a name that nobody can
// guess, and the two folders exchange names in one step.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "core/files/made_folders.h"
#include "platform/folder.h"

namespace metal_marlin {

// The folder that was opened as OUT.
struct OpenedOutput {
  const std::string& path;  // as given
  const std::string& real;  // without links
  const Folder& folder;
};

// By device and inode.
bool same_file(const FileStatus& a, const FileStatus& b);

// SystemError when `path` no longer names the folder that was opened.
void require_same_folder(const OpenedOutput& output);

// Brings a staged result back that a killed run had put beside OUT before the exchange.
void take_back_staged(const OpenedOutput& output);
// Removes what runs left beside OUT that were killed after the exchange. A folder is ours when its name has the form,
// it and the journal in it belong to this user, and the marker in it names the folder itself. Others are kept, with a
// warning.
void remove_leftovers_beside(const OpenedOutput& output, const std::function<void(const std::string&)>& warn);

// Exchanges OUT with the staged result in its journal folder and removes the old content. False, with nothing changed,
// where that is not possible: OUT is a mount point or the working directory, the folder above cannot be written to, the
// file system cannot exchange names. made: OUT, where this run made it; it is kept once the result is there.
bool exchange_result(const OpenedOutput& output, const Folder& journal, MadeFolders& made,
                     const std::function<void(const std::string&)>& warn);

}  // namespace metal_marlin

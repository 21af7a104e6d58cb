// The folder that quantize or convert writes its result into: the lock, what stands there, and how the new result gets
// to its place.
//
// A result is first written whole into OUT/.metal-marlin/result. place() then puts it beside OUT, under a name that
// nobody can guess, and lets the two folders change names in one step. So OUT holds the old content or the new one at
// every instant. Where that is not possible (OUT is a mount point, the folder above cannot be written to, OUT is the
// working directory, the file system cannot exchange names) the files are moved one by one, config.json and the lists
// last, and the same command ends what an interruption left.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "core/files/held_folder.h"
#include "core/files/made_folders.h"
#include "platform/folder.h"
#include "run/output/exchange.h"
#include "write/manifest.h"

namespace metal_marlin {

class OutputFolder {
 public:
  enum class Use : uint8_t {
    kWrite,  // the folder is made when it is missing, leftovers of killed runs are removed
    kLook    // nothing is changed (--dry-run)
  };
  using Warn = std::function<void(const std::string&)>;

  // While this object exists, all that is written or read by paths below `path` is reached from the folder that was
  // opened here (core/files/held_folder.h).
  //
  // Takes the lock, which one process at a time can have. SystemError when another process has it, or when the journal
  // there belongs to another user, ArgumentError when
  // `path` is no folder. On a file system without locks it calls `warn` instead.
  OutputFolder(const std::string& path, Use use, const Warn& warn);
  // The folder, and those above it, go when this object made them and they are still empty.
  OutputFolder(const OutputFolder&) = delete;
  OutputFolder& operator=(const OutputFolder&) = delete;

  const std::string& path() const noexcept { return path_; }  // as given
  bool exists() const noexcept { return folder_ != nullptr; }
  const Folder& folder() const { return *folder_; }
  // The files that earlier runs have written here, and those that an interrupted place() has noted.
  Manifest manifest() const;
  bool has_journal_folder() const;
  // An earlier place() had begun to move the staged result file by file.
  bool placing() const;
  // An earlier place() was interrupted; manifest() knows its files.
  bool interrupted() const;
  // Notes in the journal folder what manifest() said before that folder was emptied.
  void note(const Manifest& manifest);

  // The path of an empty folder for the new result.
  std::string stage();
  bool staged(const std::string& name) const;  // such a file is in it
  // Puts the staged result into place and removes what manifest() lists of the old one. SystemError when files of
  // somebody else stand in OUT, or when `path` no longer names the folder that was opened: then nothing has changed.
  // The journal is removed with the old result.
  void place(const Warn& warn);
  // Removes the journal folder and all in it. SystemError when it holds what is not ours, or when it, or the
  // folder of stage(), is another one by now.
  void remove_journal();

 private:
  void require_own_journal() const;
  OpenedOutput opened() const { return {path_, real_, *folder_}; }
  Folder journal() const;

  std::string path_;
  std::string real_;  // without links
  std::shared_ptr<const Folder> folder_;
  std::unique_ptr<HeldFolder> held_;     // of folder_
  std::unique_ptr<HeldFolder> journal_;  // of the journal's folder, since stage()
  std::unique_ptr<HeldFolder> staged_;   // of the folder that stage() made
  MadeFolders made_;                     // goes before the lock
  bool use_write_ = false;
};

}  // namespace metal_marlin

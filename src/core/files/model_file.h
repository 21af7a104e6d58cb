// The one way to open a file of a model. A model may come from a stranger: its files are read from its own folder and
// from nowhere else, whatever its symbolic links say.
#pragma once

#include <optional>
#include <string>

#include "core/files/mapped_file.h"
#include "platform/folder.h"

namespace metal_marlin {

class ModelFolder {
 public:
  explicit ModelFolder(const std::string& path);

  const Folder& folder() const noexcept { return folder_; }
  // SystemError, at once, for what is no regular file (a pipe, a device, a folder), and for a link that leads anywhere
  // but to another file of this folder or, where the folder is a snapshot of a Hugging Face cache, of its
  // repository's blobs.
  UniqueFd open(const std::string& name) const;
  // Whether open() would refuse `name` for where it leads, or because it leads nowhere.
  bool leads_out(const std::string& name) const;

 private:
  struct Place {
    const Folder* folder;
    std::string name;
  };
  std::optional<Place> resolve(const std::string& name) const;

  Folder folder_;
  std::optional<Folder> blobs_;
};

// The file `path`, opened as a file of the model in whose folder it lies.
UniqueFd open_model_file(const std::string& path);
MappedFile map_model_file(const std::string& path);
std::string read_model_text(const std::string& path, uint64_t limit);

}  // namespace metal_marlin

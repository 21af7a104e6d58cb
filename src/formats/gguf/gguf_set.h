// The file of a GGUF model, or its files where it is split (gguf_split.h), as one.
#pragma once

#include <deque>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/files/mapped_file.h"
#include "formats/gguf.h"
#include "formats/gguf/gguf_split.h"

namespace metal_marlin {

// Safe to use from several threads.
class GgufSet {
 public:
  using Map = std::function<MappedFile(const std::string& path)>;
  // `path`: the file of a model, or any file of a split one, whose others must stand beside it. `map` opens a file.
  // FormatError: a file is missing or of another model, or has not the number that its name says; the files have not as
  // many tensors as they say; two have the same. A file that says to be one of several is opened alone where it is not
  // called so, and the first where there is no second. Errors of GgufFile too.
  GgufSet(const std::string& path, const Map& map);

  const std::string& path() const noexcept { return files_.front().path(); }  // of the first file
  const std::deque<GgufFile>& files() const noexcept { return files_; }
  // How many files the model has by the keys of a file that was opened alone; else 0.
  uint64_t parts_elsewhere() const noexcept { return parts_elsewhere_; }
  // Of the first file. Those of others have the keys of the split alone.
  const GgufMetadata& metadata() const noexcept { return files_.front().metadata(); }
  const std::vector<GgufTensor>& tensors() const noexcept { return tensors_; }  // of all files, in their order
  const GgufTensor* find(std::string_view name) const noexcept;                 // nullptr: not there
  const GgufFile& file_of(const GgufTensor& tensor) const noexcept;             // `tensor`: one of tensors()
  void release(const GgufTensor& tensor) const noexcept { file_of(tensor).release(tensor); }
  void check_unchanged() const;  // SystemError naming the file that is no longer what it was

 private:
  void open_others(const GgufSplitName& name, const Map& map);
  void index();

  std::deque<GgufFile> files_;
  uint64_t parts_elsewhere_ = 0;
  std::vector<GgufTensor> tensors_;
  std::vector<size_t> ends_;  // of each file, the index behind its last tensor
  std::unordered_map<std::string_view, size_t> index_;
};

}  // namespace metal_marlin

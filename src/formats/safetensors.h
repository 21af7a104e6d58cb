// safetensors: u64 header length | JSON header | tensor data; row-major, little-endian.
// A file is accepted when the reference package (0.8) accepts it, except that duplicate keys are refused too, and that
// element types which core/dtype.h does not have (F4, F6, F8_E8M0, F8_*FNUZ, C64) end in UnsupportedError.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/files/atomic_file.h"
#include "core/files/mapped_file.h"
#include "core/tensor.h"

namespace metal_marlin {

// The content of the header, checked against the size of the file: the tensors' bytes cover the data without hole or
// overlap.
struct SafetensorsContent {
  std::vector<TensorView> tensors;  // in the order of their data; bytes point into the parsed memory
  std::map<std::string, std::string> metadata;
};
// Throws FormatError (broken file) or UnsupportedError (element type); messages start with `name`, the file's name.
SafetensorsContent parse_safetensors(std::span<const std::byte> file, const std::string& name);

// A mapped file. Opening reads the header only. Safe to use from several threads.
class SafetensorsFile {
 public:
  // Throws SystemError as MappedFile does, else as parse_safetensors.
  explicit SafetensorsFile(const std::string& path);
  explicit SafetensorsFile(MappedFile file);

  const std::string& path() const noexcept { return file_.path(); }
  const std::vector<TensorView>& tensors() const noexcept { return content_.tensors; }  // in data order
  const std::map<std::string, std::string>& metadata() const noexcept { return content_.metadata; }
  const TensorView* find(std::string_view name) const noexcept;  // nullptr: not there
  const TensorView& get(std::string_view name) const;            // FormatError naming file and tensor: not there
  // Releases the tensor's pages from memory. Reading the tensor later loads them again.
  void release(const TensorView& tensor) const noexcept { file_.release(tensor.bytes); }
  // To be called between copying bytes out and using the copy (see MappedFile).
  void check_unchanged() const { file_.check_unchanged(); }
  const MappedFile& mapped() const noexcept { return file_; }

 private:
  MappedFile file_;
  SafetensorsContent content_;
  std::unordered_map<std::string_view, size_t> index_;  // keys live in content_
};

struct TensorInfo {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;

  uint64_t bytes() const;  // ArgumentError naming the tensor when the shape is negative or overflows
};

// Writes one file in two steps. The constructor lays out the header for all tensors. Then the caller passes their bytes
// to write(), in the order of order(). The bytes equal the reference writer's for one metadata key or none (the
// reference writes several keys in a random order, we in ascending order).
class SafetensorsWriter {
 public:
  // Throws ArgumentError for a duplicate or reserved ("__metadata__") name, SystemError as AtomicFile does.
  SafetensorsWriter(const std::string& path, std::vector<TensorInfo> tensors,
                    const std::map<std::string, std::string>& metadata = {});

  // The tensors in the order of their data: by the reference's rank of element types, widest first, then by name.
  const std::vector<TensorInfo>& order() const noexcept { return tensors_; }
  // Writes all bytes of the next tensor of order(). Throws ArgumentError for another name or size.
  void write(std::string_view name, std::span<const std::byte> bytes);
  // Writes the next piece of the current tensor, for tensors that are not in memory as a whole.
  void write_part(std::string_view name, std::span<const std::byte> bytes);
  // Flushes the file and gives it its name. Throws ArgumentError when tensors are missing.
  void commit();
  uint64_t file_bytes() const noexcept { return file_bytes_; }  // header and data

 private:
  uint64_t expect_next(std::string_view name) const;  // its size; ArgumentError when another tensor is next

  std::string path_;
  std::vector<TensorInfo> tensors_;
  AtomicFile file_;
  size_t next_ = 0;       // index into tensors_
  uint64_t written_ = 0;  // bytes of tensors_[next_] so far
  uint64_t file_bytes_ = 0;
};

void write_safetensors(const std::string& path, std::span<const OwnedTensor> tensors,
                       const std::map<std::string, std::string>& metadata = {});
void write_safetensors(const std::string& path, std::span<const TensorView> tensors,
                       const std::map<std::string, std::string>& metadata = {});

// model.safetensors.index.json
struct SafetensorsIndex {
  std::optional<uint64_t> total_size;             // bytes of all tensors; absent in some files
  std::map<std::string, std::string> weight_map;  // tensor -> plain file name

  std::vector<std::string> files() const;  // distinct, ascending
};
// Throws FormatError: no JSON object, no weight_map, a duplicate key, a value that is not a plain file name.
SafetensorsIndex parse_index(std::string_view text, const std::string& name);
// Warns of what is left out of the file, where `warnings` is given.
SafetensorsIndex read_index(const std::string& path, std::vector<std::string>* warnings = nullptr);
void write_index(const std::string& path, const SafetensorsIndex& index);
// "model-00001-of-00003.safetensors"; shard is 1-based.
std::string shard_name(int shard, int shards, std::string_view stem = "model");

// SystemError naming the shards that are not there, and how many tensors the index places in them.
void require_shards(const SafetensorsIndex& index, const std::string& index_path);

}  // namespace metal_marlin

// Writes GGUF, version 3, little-endian; formats/gguf.h has the layout.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/files/atomic_file.h"
#include "formats/gguf.h"
#include "formats/gguf_blocks.h"

namespace metal_marlin {

inline constexpr std::string_view kAlignmentKey = "general.alignment";

// A key with its value as it stands in the file.
struct GgufPair {
  std::string key;
  GgufType type = GgufType::kU8;
  std::string value;  // the bytes behind the type; of an array its element type, its count and its elements
};

// T: uint8_t, int8_t, uint16_t, int16_t, uint32_t, int32_t, uint64_t, int64_t, float, double, bool, std::string_view.
// The type in the file is T's, so a call names it: gguf_pair<uint32_t>("llama.block_count", layers).
template <typename T>
GgufPair gguf_pair(std::string key, T value);
template <typename T>
GgufPair gguf_array(std::string key, std::span<const T> values);
GgufPair gguf_strings(std::string key, std::span<const std::string> values);
// A value that was read, with its type. Arrays point into the file that was read, which must still be open.
GgufPair gguf_copy(std::string key, const GgufValue& value);

struct GgufTensorInfo {
  std::string name;
  GgmlType type = GgmlType::kF32;
  std::vector<int64_t> shape;  // slowest first: [out, in]

  // ArgumentError naming the tensor when its shape has no size, or when its rows are no whole blocks.
  uint64_t bytes() const;
};

// Bytes of a file with these keys and tensors: header, data and the zeros between. Errors as GgufWriter.
uint64_t gguf_file_bytes(std::span<const GgufPair> pairs, std::span<const GgufTensorInfo> tensors);

// Writes one file in two steps, as SafetensorsWriter does. The constructor writes the header. Then the caller passes
// the tensors' bytes to write(), in the order in which he listed them. The tensors begin at multiples of
// general.alignment where it is among the pairs, else of 32.
class GgufWriter {
 public:
  // ArgumentError for what readers refuse: a duplicate, empty or too long name (64 bytes and more) or key, more than
  // four dimensions, a dimension below 1, an alignment that is no power of two. SystemError as AtomicFile.
  GgufWriter(const std::string& path, std::span<const GgufPair> pairs, std::vector<GgufTensorInfo> tensors);

  const std::vector<GgufTensorInfo>& order() const noexcept { return tensors_; }
  // Writes all bytes of the next tensor of order(). Throws ArgumentError for another name or size.
  void write(std::string_view name, std::span<const std::byte> bytes);
  // Writes the next piece of the current tensor, for tensors that are not in memory as a whole.
  void write_part(std::string_view name, std::span<const std::byte> bytes);
  // Flushes the file and gives it its name. Throws ArgumentError when tensors are missing.
  void commit();
  uint64_t file_bytes() const noexcept { return file_bytes_; }

 private:
  uint64_t expect_next(std::string_view name) const;  // its size; ArgumentError when another tensor is next

  std::string path_;
  std::vector<GgufTensorInfo> tensors_;
  uint64_t alignment_ = 0;
  uint64_t file_bytes_ = 0;
  AtomicFile file_;
  size_t next_ = 0;       // index into tensors_
  uint64_t written_ = 0;  // bytes of tensors_[next_] so far
};

}  // namespace metal_marlin

// GGUF, versions 2 and 3, little-endian:
//   "GGUF" | u32 version | u64 tensors | u64 pairs | pairs | tensor infos | zeros up to `alignment` | data
//   string = u64 length, UTF-8;  pair = string key, u32 type, value;  array = u32 element type, u64 count, elements
//   tensor info = string name, u32 dimensions (<= 4), u64 sizes (fastest first), u32 ggml type, u64 offset in data
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <variant>
#include <vector>

#include "core/files/mapped_file.h"
#include "formats/gguf_blocks.h"

namespace metal_marlin {

enum class GgufType : uint32_t { kU8, kI8, kU16, kI16, kU32, kI32, kF32, kBool, kString, kArray, kU64, kI64, kF64 };
std::string_view gguf_type_name(GgufType type) noexcept;  // "u8", "string", ...

// The elements of an array as they lie in the file: nothing is held of arrays that nobody asks for.
struct GgufNumbers {                 // and booleans
  std::span<const std::byte> bytes;  // into the parsed memory
  uint64_t count = 0;
};
struct GgufStrings {
  std::span<const std::byte> bytes;  // lengths and texts, checked to be whole
  uint64_t count = 0;
};

struct GgufValue {
  GgufType type = GgufType::kU8;     // as stored
  GgufType element = GgufType::kU8;  // of an array
  // Integers of any width as uint64/int64, f32 and f64 as double.
  std::variant<uint64_t, int64_t, double, bool, std::string, GgufNumbers, GgufStrings> value;

  std::string type_name() const;  // "u32", "array of string"
};

// The key-value pairs of a file. The find_ functions return nothing when the key is absent. They throw FormatError
// naming file, key, expected type and found type when it has another type. The get_ functions throw for an absent key
// too. u64: any integer type, not negative. f64: f32, f64 or an integer. ints: arrays of any integer type (FormatError
// for a value above int64). floats: arrays of f32 or f64. Arrays of more than 2^21 elements: FormatError.
class GgufMetadata {
 public:
  const std::map<std::string, GgufValue, std::less<>>& pairs() const noexcept { return pairs_; }
  const GgufValue* find(std::string_view key) const noexcept;
  bool contains(std::string_view key) const noexcept { return find(key) != nullptr; }

  std::optional<uint64_t> find_u64(std::string_view key) const;
  std::optional<int64_t> find_i64(std::string_view key) const;
  std::optional<double> find_f64(std::string_view key) const;
  std::optional<bool> find_bool(std::string_view key) const;
  std::optional<std::string> find_string(std::string_view key) const;
  std::optional<std::vector<std::string>> find_strings(std::string_view key) const;
  std::optional<std::vector<int64_t>> find_ints(std::string_view key) const;
  std::optional<std::vector<float>> find_floats(std::string_view key) const;
  std::optional<std::vector<bool>> find_bools(std::string_view key) const;

  uint64_t get_u64(std::string_view key) const;
  int64_t get_i64(std::string_view key) const;
  double get_f64(std::string_view key) const;
  bool get_bool(std::string_view key) const;
  std::string get_string(std::string_view key) const;
  std::vector<std::string> get_strings(std::string_view key) const;
  std::vector<int64_t> get_ints(std::string_view key) const;
  std::vector<float> get_floats(std::string_view key) const;

 private:
  friend class GgufParser;
  void check_count(uint64_t count, std::string_view key) const;
  const GgufNumbers* numbers(const GgufValue* found, std::string_view key) const;
  [[noreturn]] void missing(std::string_view key, const char* expected) const;
  [[noreturn]] void mismatch(std::string_view key, const char* expected, const GgufValue& found) const;

  std::string file_;
  std::map<std::string, GgufValue, std::less<>> pairs_;
};

struct GgufTensor {
  std::string name;
  GgmlType type = GgmlType::kF32;
  std::vector<int64_t> shape;        // slowest first, as Hugging Face has it: [out, in]
  std::span<const std::byte> bytes;  // whole blocks, row after row

  int64_t elements() const noexcept;
  int64_t row_bytes() const noexcept;  // of one run along the last dimension (0 for no dimension)
};

struct GgufContent {
  uint32_t version = 0;
  uint64_t alignment = 32;
  GgufMetadata metadata;
  std::vector<GgufTensor> tensors;  // in file order
};
// Metadata and tensors point into `file`, which must outlive them. More than 65,536 keys, 200,000 tensors or 64 MiB of
// keys and strings outside arrays: FormatError, before any memory is taken for them.
// Throws FormatError for a broken file, UnsupportedError for an unknown ggml type or a big-endian file; messages start
// with `name` and name the pair or tensor.
GgufContent parse_gguf(std::span<const std::byte> file, const std::string& name);

// A mapped file. Opening reads the metadata only. Safe to use from several threads.
class GgufFile {
 public:
  explicit GgufFile(const std::string& path);
  explicit GgufFile(MappedFile file);

  const std::string& path() const noexcept { return file_.path(); }
  uint32_t version() const noexcept { return content_.version; }
  const GgufMetadata& metadata() const noexcept { return content_.metadata; }
  const std::vector<GgufTensor>& tensors() const noexcept { return content_.tensors; }
  const GgufTensor* find(std::string_view name) const noexcept;  // nullptr: not there
  const GgufTensor& get(std::string_view name) const;            // FormatError naming file and tensor: not there
  void release(const GgufTensor& tensor) const noexcept { file_.release(tensor.bytes); }
  const MappedFile& mapped() const noexcept { return file_; }

 private:
  MappedFile file_;
  GgufContent content_;
  std::unordered_map<std::string_view, size_t> index_;
};

// Writes rows first .. first + count - 1 of a tensor as f32 into out [count, last dimension]. The tensor must have at
// least one dimension; the leading ones count as one. Runs in parallel over fixed tiles. Throws ArgumentError when the
// rows are out of range, UnsupportedError naming the tensor when its type cannot be dequantized.
void dequantize_rows(const GgufTensor& tensor, int64_t first, int64_t count, float* out);

}  // namespace metal_marlin

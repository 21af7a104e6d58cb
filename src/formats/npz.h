// npy (versions 1, 2, 3) and npz. Element types are f2 f4 f8, i1..i8, u1..u8 and b1, in either byte order. Everything
// else is refused, pickled objects above all. Arrays are returned little-endian and row-major.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/tensor.h"

namespace metal_marlin {

struct NpyHeader {
  DType dtype = DType::kF32;
  bool big_endian = false;
  bool fortran_order = false;  // data is column-major
  std::vector<int64_t> shape;
  uint64_t data_offset = 0;  // from the start of the npy

  int64_t elements() const noexcept;
  uint64_t data_bytes() const noexcept;
  int64_t columns() const noexcept;  // last dimension; 1 for a scalar
  int64_t rows() const noexcept;     // the leading dimensions taken together
};
// `npy` may be only the beginning of a file. Throws FormatError or UnsupportedError; messages start with `name`.
NpyHeader parse_npy_header(std::span<const std::byte> npy, const std::string& name);
// The array of a whole npy; its name is empty.
OwnedTensor parse_npy(std::span<const std::byte> npy, const std::string& name);
OwnedTensor read_npy(const std::string& path);

// Converts a tensor of any type except F8 to float32; integers and f64 are rounded to nearest. Throws UnsupportedError
// for F8.
void convert_to_f32(const TensorView& tensor, float* out);

class NpzRows;

// A zip of .npy members, stored or deflated. A member is read only when a function below asks for it. Not safe to use
// from several threads at once.
class NpzFile {
 public:
  // Throws SystemError (cannot open) or FormatError (no zip, duplicate names). `load` refuses members above
  // `member_limit` bytes; 0: the machine's memory.
  explicit NpzFile(const std::string& path, uint64_t member_limit = 0);
  // Reads from memory, which must outlive the object.
  NpzFile(std::span<const std::byte> bytes, const std::string& name, uint64_t member_limit = 0);
  ~NpzFile();
  NpzFile(NpzFile&&) noexcept;
  NpzFile& operator=(NpzFile&&) noexcept;

  const std::string& path() const noexcept;
  // The names of the members without ".npy", in the order of the file. Members with other endings are ignored.
  const std::vector<std::string>& names() const noexcept;
  bool contains(std::string_view name) const noexcept;
  // Both throw FormatError naming file and member when it is missing or broken.
  NpyHeader header(const std::string& name) const;
  OwnedTensor load(const std::string& name) const;
  // Writes rows first .. first + count - 1 (the leading dimensions count as one) as f32 into out [count, columns]. Each
  // call inflates a deflated member from its beginning, so read such a member in sequence with rows().
  void load_rows(const std::string& name, int64_t first, int64_t count, float* out) const;
  // Reads a member of any size in sequence; the NpzFile must outlive it.
  NpzRows rows(const std::string& name) const;

 private:
  friend class NpzRows;
  struct Archive;
  std::unique_ptr<Archive> archive_;
};

// A member read row by row as f32, with a buffer of at most 1 MiB (a column-major array is held whole).
class NpzRows {
 public:
  ~NpzRows();
  NpzRows(NpzRows&&) noexcept;
  NpzRows& operator=(NpzRows&&) noexcept;

  const NpyHeader& header() const noexcept;
  int64_t remaining() const noexcept;  // rows
  // Reads the next min(count, remaining()) rows into out [count, columns]; returns how many.
  int64_t read(int64_t count, float* out);
  void skip(int64_t count);  // ArgumentError when fewer remain

 private:
  friend class NpzFile;
  struct State;
  explicit NpzRows(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// Writes members NAME.npy one by one, stored, dated 1980-01-01, through AtomicFile: the same arrays give the same
// bytes, and without commit() there is no file. zip64 where sizes need it. add: ArgumentError for an empty or duplicate
// name or a type that npy does not have (BF16, F8).
class NpzWriter {
 public:
  explicit NpzWriter(const std::string& path);
  ~NpzWriter();
  NpzWriter(const NpzWriter&) = delete;
  NpzWriter& operator=(const NpzWriter&) = delete;
  void add(const TensorView& array);
  void commit();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Write all arrays at once.
void write_npz(const std::string& path, std::span<const TensorView> arrays);
void write_npz(const std::string& path, std::span<const OwnedTensor> arrays);
void write_npy(const std::string& path, const TensorView& array);

}  // namespace metal_marlin

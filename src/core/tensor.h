// Tensors: a float32 matrix that owns its memory, and a view of stored bytes that owns nothing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/dtype.h"

namespace metal_marlin {

// How much of a buffer will be used.
enum class Touch : uint8_t {
  kWhole,  // most of the memory will be written: from 1 MiB on it is laid in huge pages, of whose last one the rest is
           // wasted
  kSparsely,  // little of it: only pages that are touched become resident
};

// 64-byte aligned memory, zero-filled. Above 1 MiB it comes from and returns to the system at once, so that the
// resident size follows what is held. Throws SystemError when there is none.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t bytes, Touch touch = Touch::kWhole);
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  ~Buffer();
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  std::byte* data() noexcept { return data_; }
  const std::byte* data() const noexcept { return data_; }
  size_t size() const noexcept { return size_; }

 private:
  std::byte* data_ = nullptr;
  size_t size_ = 0;
  size_t mapped_ = 0;  // bytes of the mapping; 0: from the heap
};

// Row-major float32 [rows, cols], move-only (clone() copies).
class Matrix {
 public:
  Matrix() = default;
  Matrix(int64_t rows, int64_t cols, Touch touch = Touch::kWhole);  // zeros

  float* data() noexcept { return reinterpret_cast<float*>(buffer_.data()); }
  const float* data() const noexcept { return reinterpret_cast<const float*>(buffer_.data()); }
  int64_t rows() const noexcept { return rows_; }
  int64_t cols() const noexcept { return cols_; }
  int64_t size() const noexcept { return rows_ * cols_; }
  bool empty() const noexcept { return rows_ * cols_ == 0; }
  std::span<float> row(int64_t r) noexcept { return {data() + r * cols_, static_cast<size_t>(cols_)}; }
  std::span<const float> row(int64_t r) const noexcept { return {data() + r * cols_, static_cast<size_t>(cols_)}; }
  float& operator()(int64_t r, int64_t c) noexcept { return data()[r * cols_ + c]; }
  float operator()(int64_t r, int64_t c) const noexcept { return data()[r * cols_ + c]; }
  std::span<float> values() noexcept { return {data(), static_cast<size_t>(size())}; }
  std::span<const float> values() const noexcept { return {data(), static_cast<size_t>(size())}; }
  Matrix clone() const;

 private:
  Buffer buffer_;
  int64_t rows_ = 0;
  int64_t cols_ = 0;
};

// A stored tensor: name, type, shape (row-major, slowest first). `bytes` points into a mapped file or a buffer that
// somebody else keeps alive.
struct TensorView {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;

  int64_t elements() const noexcept;
};

// A tensor that owns its bytes (what writers take).
struct OwnedTensor {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  Buffer bytes;

  TensorView view() const { return {name, dtype, shape, {bytes.data(), bytes.size()}}; }
};

// "[576, 1536]".
std::string shape_string(std::span<const int64_t> shape);

}  // namespace metal_marlin

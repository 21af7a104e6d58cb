#include "core/tensor.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <metal_marlin/error.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <utility>

#include "core/counted.h"
#include "platform/mapping.h"

namespace metal_marlin {
namespace {
constexpr size_t kMapFrom = size_t{1} << 20;
constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kAlign = 64;

std::byte* map(size_t bytes, size_t asked) {
  std::byte* p = map_memory(bytes);
  if (p == nullptr) throw SystemError(fmt::format("out of memory: {} MiB were asked for", asked >> 20));
  return p;
}

// Whole huge pages: most buffers live for one batch of tokens, and the faults of their small pages would take a tenth
// of a run.
std::byte* map_huge_pages(size_t bytes, size_t asked) {
  std::byte* p = map(bytes + kHugePage, asked);
  const size_t before = (kHugePage - reinterpret_cast<uintptr_t>(p) % kHugePage) % kHugePage;
  if (before > 0) unmap_memory(p, before);
  if (before < kHugePage) unmap_memory(p + before + bytes, kHugePage - before);
  prefer_huge_pages(p + before, bytes);
  return p + before;
}
}  // namespace

Buffer::Buffer(size_t bytes, Touch touch) : size_(bytes) {
  if (bytes == 0) return;
  if (bytes >= kMapFrom) {
    if (bytes > std::numeric_limits<size_t>::max() / 2)
      throw SystemError(fmt::format("out of memory: {} MiB were asked for", bytes >> 20));
    mapped_ = touch == Touch::kWhole ? (bytes + kHugePage - 1) / kHugePage * kHugePage : bytes;
    data_ = touch == Touch::kWhole ? map_huge_pages(mapped_, bytes) : map(mapped_, bytes);
    return;
  }
  const size_t rounded = (bytes + kAlign - 1) / kAlign * kAlign;
  data_ = static_cast<std::byte*>(std::aligned_alloc(kAlign, rounded));
  if (data_ == nullptr) throw SystemError(fmt::format("out of memory: {} were asked for", counted(bytes, "byte")));
  std::memset(data_, 0, rounded);
}

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      mapped_(std::exchange(other.mapped_, 0)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);  // the other frees what we held
  std::swap(size_, other.size_);
  std::swap(mapped_, other.mapped_);
  return *this;
}

Buffer::~Buffer() {
  if (data_ == nullptr) return;
  if (mapped_ > 0) {
    unmap_memory(data_, mapped_);
  } else {
    std::free(data_);
  }
}

Matrix::Matrix(int64_t rows, int64_t cols, Touch touch)
    : buffer_(static_cast<size_t>(rows) * static_cast<size_t>(cols) * sizeof(float), touch), rows_(rows), cols_(cols) {}

Matrix Matrix::clone() const {
  Matrix copy(rows_, cols_);
  if (!empty()) std::memcpy(copy.data(), data(), static_cast<size_t>(size()) * sizeof(float));
  return copy;
}

int64_t TensorView::elements() const noexcept {
  int64_t n = 1;
  for (const int64_t d : shape) n *= d;
  return n;
}

std::string shape_string(std::span<const int64_t> shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

}  // namespace metal_marlin

#include "core/tensor.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <metal_marlin/error.h>
#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <utility>

namespace metal_marlin {
namespace {
constexpr size_t kMapFrom = size_t{1} << 20;
constexpr size_t kHugeFrom = size_t{2} << 20;
constexpr size_t kAlign = 64;
}  // namespace

Buffer::Buffer(size_t bytes) : size_(bytes) {
  if (bytes == 0) return;
  if (bytes >= kMapFrom) {
    void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) throw SystemError(fmt::format("out of memory: {} MiB were asked for", bytes >> 20));
#ifdef MADV_HUGEPAGE
    // Most buffers live for one batch of tokens: their page faults would take a tenth of a run. Refusal costs only time.
    if (bytes >= kHugeFrom) madvise(p, bytes, MADV_HUGEPAGE);
#endif
    data_ = static_cast<std::byte*>(p);
    return;
  }
  const size_t rounded = (bytes + kAlign - 1) / kAlign * kAlign;
  data_ = static_cast<std::byte*>(std::aligned_alloc(kAlign, rounded));
  if (data_ == nullptr) throw SystemError(fmt::format("out of memory: {} bytes were asked for", bytes));
  std::memset(data_, 0, rounded);
}

Buffer::Buffer(Buffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(data_, other.data_);  // the other frees what we held
  std::swap(size_, other.size_);
  return *this;
}

Buffer::~Buffer() {
  if (data_ == nullptr) return;
  if (size_ >= kMapFrom) {
    munmap(data_, size_);
  } else {
    std::free(data_);
  }
}

Matrix::Matrix(int64_t rows, int64_t cols)
    : buffer_(static_cast<size_t>(rows) * static_cast<size_t>(cols) * sizeof(float)), rows_(rows), cols_(cols) {}

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

std::string shape_string(std::span<const int64_t> shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

}  // namespace metal_marlin

#include "core/tensor.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <metal_marlin/error.h>
#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <utility>

namespace metal_marlin {
namespace {
constexpr size_t kMapFrom = size_t{1} << 20;
constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kAlign = 64;

std::byte* map(size_t bytes, size_t asked) {
  void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) throw SystemError(fmt::format("out of memory: {} MiB were asked for", asked >> 20));
  return static_cast<std::byte*>(p);
}

// Whole huge pages: most buffers live for one batch of tokens, and the faults of their small pages would take a tenth
// of a run.
std::byte* map_huge_pages(size_t bytes, size_t asked) {
  std::byte* p = map(bytes + kHugePage, asked);
  const size_t before = (kHugePage - reinterpret_cast<uintptr_t>(p) % kHugePage) % kHugePage;
  if (before > 0) munmap(p, before);
  if (before < kHugePage) munmap(p + before + bytes, kHugePage - before);
#ifdef MADV_HUGEPAGE
  madvise(p + before, bytes, MADV_HUGEPAGE);  // refusal costs only time
#endif
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
  if (data_ == nullptr) throw SystemError(fmt::format("out of memory: {} bytes were asked for", bytes));
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
    munmap(data_, mapped_);
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

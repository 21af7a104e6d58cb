#include "source/convert.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>
#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/half.h"
#include "core/machine.h"
#include "core/threads.h"
#include "kernels/dispatch.h"

namespace metal_marlin {
namespace {
constexpr int64_t kTile = 1 << 16;
}

void to_f32(const TensorView& tensor, const std::string& file, int64_t first, int64_t count, float* out) {
  const auto tiles = [&](const auto& convert) {
    parallel_for((count + kTile - 1) / kTile, [&](int64_t i) { convert(i * kTile, std::min(kTile, count - i * kTile)); });
  };
  const KernelTable& table = kernels();
  switch (tensor.dtype) {
    case DType::kF32: {
      // Offsets of tensors in a file need not be multiples of four bytes.
      const std::byte* from = tensor.bytes.data() + first * 4;
      tiles([&](int64_t at, int64_t n) { std::memcpy(out + at, from + at * 4, static_cast<size_t>(n) * 4); });
      return;
    }
    case DType::kF16:
    case DType::kBF16: {
      const auto convert = tensor.dtype == DType::kF16 ? table.f16_to_f32 : table.bf16_to_f32;
      const auto* from = reinterpret_cast<const uint16_t*>(tensor.bytes.data()) + first;
      tiles([&](int64_t at, int64_t n) { convert(from + at, n, out + at); });
      return;
    }
    default:
      throw UnsupportedError(fmt::format("{}: tensor {}: expected F32, F16 or BF16, found {}", file, tensor.name, dtype_name(tensor.dtype)));
  }
}

OwnedTensor to_f16(const std::string& name, const std::vector<int64_t>& shape, const Matrix& values) {
  OwnedTensor t{name, DType::kF16, shape, Buffer(static_cast<size_t>(values.size()) * 2)};
  auto* out = reinterpret_cast<uint16_t*>(t.bytes.data());
  const KernelTable& table = kernels();
  parallel_for((values.size() + kTile - 1) / kTile, [&](int64_t i) {
    const int64_t n = std::min(kTile, values.size() - i * kTile);
    for (int64_t k = i * kTile; k < i * kTile + n; ++k) {
      const float v = values.data()[k];
      if (std::isfinite(v) && !f16_fits(v)) throw NumericError(fmt::format("tensor {}: {} is beyond the range of f16", name, v));
    }
    table.f32_to_f16(values.data() + i * kTile, n, out + i * kTile);
  });
  return t;
}

std::pair<int64_t, int64_t> matrix_shape(const std::vector<int64_t>& shape, const std::string& name, const std::string& file) {
  if (shape.size() == 1) return {1, shape[0]};
  if (shape.size() == 2) return {shape[0], shape[1]};
  throw FormatError(fmt::format("{}: tensor {}: expected one or two dimensions, found {}", file, name, shape_string(shape)));
}

void check_rows(const std::string& name, int64_t first, int64_t rows, int64_t all) {
  if (first < 0 || rows < 0 || first > all - rows) {
    throw ArgumentError(fmt::format("tensor {}: rows {} .. {} of {} were asked for", name, first, first + rows - 1, all));
  }
}

uint64_t digest_sample(std::span<const std::byte> bytes, uint64_t state) {
  constexpr size_t kPage = 4096;
  constexpr size_t kPages = 16;
  const uint64_t size = bytes.size();
  state = fnv1a(&size, sizeof size, state);
  if (bytes.size() <= kPage * kPages) return fnv1a(bytes.data(), bytes.size(), state);
  const size_t step = (bytes.size() - kPage) / (kPages - 1);
  for (size_t i = 0; i < kPages; ++i) state = fnv1a(bytes.data() + i * step, kPage, state);
  return state;
}

uint64_t digest_time(const std::string& path, uint64_t state) {
  struct stat info {};
  if (stat(path.c_str(), &info) != 0) return state;
  const int64_t facts[] = {static_cast<int64_t>(info.st_size), static_cast<int64_t>(info.st_mtime)};
  return fnv1a(facts, sizeof facts, state);
}

}  // namespace metal_marlin

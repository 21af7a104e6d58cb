#include "checkpoint/convert.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <system_error>

#include "core/files/file_status.h"
#include "core/half.h"
#include "core/interrupt.h"
#include "core/threads.h"
#include "formats/text.h"
#include "kernels/dispatch.h"

namespace metal_marlin {
namespace {
namespace fs = std::filesystem;
constexpr int64_t kTile = 1 << 16;
}  // namespace

void to_f32(const TensorView& tensor, const std::string& file, int64_t first, int64_t count, float* out) {
  const auto tiles = [&](const auto& convert) {
    parallel_for((count + kTile - 1) / kTile,
                 [&](int64_t i) { convert(i * kTile, std::min(kTile, count - i * kTile)); });
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
      throw UnsupportedError(fmt::format("{}: tensor {}: expected F32, F16 or BF16, found {}", file,
                                         escaped(tensor.name), dtype_name(tensor.dtype)));
  }
}

OwnedTensor to_f16(const std::string& where, const std::vector<int64_t>& shape, const Matrix& values) {
  OwnedTensor t{{}, DType::kF16, shape, Buffer(static_cast<size_t>(values.size()) * 2)};
  auto* out = reinterpret_cast<uint16_t*>(t.bytes.data());
  const KernelTable& table = kernels();
  const auto beyond = [](float v) { return std::isfinite(v) && !f16_fits(v); };
  std::atomic<int64_t> beyond_range{0};
  parallel_for((values.size() + kTile - 1) / kTile, [&](int64_t i) {
    const int64_t n = std::min(kTile, values.size() - i * kTile);
    for (int64_t k = i * kTile; k < i * kTile + n; ++k) {
      if (beyond(values.data()[k])) beyond_range.fetch_add(1, std::memory_order_relaxed);
    }
    table.f32_to_f16(values.data() + i * kTile, n, out + i * kTile);
  });
  if (const int64_t count = beyond_range.load(); count > 0) {
    const auto first = std::find_if(values.values().begin(), values.values().end(), beyond);
    throw NumericError(
        fmt::format("{}: {} of {} values are beyond the range of f16 (65504), the first is {} at element {}", where,
                    count, values.size(), *first, first - values.values().begin()));
  }
  return t;
}

int64_t first_not_finite_of(int64_t rows, int64_t columns,
                            const std::function<void(int64_t first, int64_t count, float* out)>& read) {
  constexpr int64_t kValues = int64_t{1} << 20;  // at a time
  const int64_t piece = std::max<int64_t>(1, kValues / std::max<int64_t>(1, columns));
  std::vector<float> values(static_cast<size_t>(std::min(piece, rows) * columns));
  for (int64_t first = 0; first < rows; first += piece) {
    stop_if_asked();
    const int64_t count = std::min(piece, rows - first);
    read(first, count, values.data());
    const auto end = values.begin() + count * columns;
    const auto bad = std::find_if(values.begin(), end, [](float v) { return !std::isfinite(v); });
    if (bad != end) return first * columns + (bad - values.begin());
  }
  return -1;
}

std::pair<int64_t, int64_t> matrix_shape(const std::vector<int64_t>& shape, const std::string& name,
                                         const std::string& file) {
  if (shape.size() == 1) return {1, shape[0]};
  if (shape.size() == 2) return {shape[0], shape[1]};
  throw FormatError(
      fmt::format("{}: tensor {}: expected one or two dimensions, found {}", file, escaped(name), shape_string(shape)));
}

void check_rows(const std::string& name, int64_t first, int64_t rows, int64_t all) {
  if (first < 0 || rows < 0 || first > all - rows) {
    throw ArgumentError(
        fmt::format("tensor {}: rows {} .. {} of {} were asked for", escaped(name), first, first + rows - 1, all));
  }
}

void add_sample(Digester& digester, std::span<const std::byte> bytes) {
  constexpr size_t kPage = 4096;
  constexpr size_t kPages = 16;
  digester.add_number(bytes.size());
  if (bytes.size() <= kPage * kPages) return digester.add(bytes);
  const size_t step = (bytes.size() - kPage) / (kPages - 1);
  for (size_t i = 0; i < kPages; ++i) digester.add(bytes.subspan(i * step, kPage));
}

void add_file(Digester& digester, const MappedFile& file) {
  constexpr uint64_t kWhole = uint64_t{1} << 30;
  constexpr size_t kPiece = size_t{4} << 20;
  const uint64_t size = file.identity().size;
  digester.add_number(size);
  if (size > kWhole) return digester.add_number(static_cast<uint64_t>(file.identity().changed_ns));
  file.checked([&] {
    for (size_t at = 0; at < file.bytes().size(); at += kPiece) {
      const auto piece = file.bytes().subspan(at, std::min(kPiece, file.bytes().size() - at));
      digester.add(piece);
      file.release(piece);
    }
    return true;
  });
}

void add_header(Digester& digester, const std::string& name, std::string_view type, std::span<const int64_t> shape) {
  digester.add_text(name);
  digester.add_text(type);
  digester.add_number(shape.size());
  digester.add(std::as_bytes(shape));
}

std::vector<std::string> names_in_folder(const std::string& folder) {
  std::vector<std::string> names;
  std::error_code code;
  for (fs::directory_iterator it(folder, code), end; !code && it != end; it.increment(code))
    names.push_back(it->path().filename().string());
  if (code) throw SystemError(fmt::format("{}: cannot read the folder: {}", folder, code.message()));
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace metal_marlin

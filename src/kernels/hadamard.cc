#include "kernels/hadamard.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <bit>
#include <cmath>

#include "core/threads.h"

namespace metal_marlin {
namespace {

constexpr int64_t kRows = 64;  // of a tile

// The butterflies are in float64, because log2(n) roundings to float32 would be as large as those of the codes' scales.
void transform(double* x, int64_t n) noexcept {
  for (int64_t half = 1; half < n; half *= 2) {
    for (int64_t start = 0; start < n; start += 2 * half) {
      for (int64_t i = start; i < start + half; ++i) {
        const double a = x[i];
        const double b = x[i + half];
        x[i] = a + b;
        x[i + half] = a - b;
      }
    }
  }
  const double norm = 1 / std::sqrt(static_cast<double>(n));
  for (int64_t i = 0; i < n; ++i) x[i] *= norm;
}

void transpose_square(Matrix& m) {
  for (int64_t r = 0; r < m.rows(); ++r) {
    for (int64_t c = r + 1; c < m.cols(); ++c) std::swap(m(r, c), m(c, r));
  }
}

}  // namespace

std::vector<int64_t> hadamard_blocks(int64_t features, int64_t block_size) {
  if (block_size < 1 || !std::has_single_bit(static_cast<uint64_t>(block_size))) {
    throw ArgumentError(fmt::format("hadamard_block_size: expected a power of two, found {}", block_size));
  }
  if (features < 1) throw ArgumentError(fmt::format("features: expected at least 1, found {}", features));
  std::vector<int64_t> blocks(static_cast<size_t>(features / block_size), block_size);
  for (int64_t rest = features % block_size; rest > 0;) {
    blocks.push_back(static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(rest))));
    rest -= blocks.back();
  }
  return blocks;
}

void rotate_columns(Matrix& matrix, int64_t block_size) {
  const std::vector<int64_t> blocks = hadamard_blocks(matrix.cols(), block_size);
  parallel_for((matrix.rows() + kRows - 1) / kRows, [&](int64_t tile) {
    std::vector<double> x(static_cast<size_t>(blocks.front()));
    for (int64_t r = tile * kRows; r < std::min((tile + 1) * kRows, matrix.rows()); ++r) {
      float* row = matrix.row(r).data();
      for (const int64_t n : blocks) {
        std::copy_n(row, n, x.data());
        transform(x.data(), n);
        for (int64_t i = 0; i < n; ++i) row[i] = static_cast<float>(x[static_cast<size_t>(i)]);
        row += n;
      }
    }
  });
}

void rotate_hessian(Matrix& hessian, int64_t block_size) {
  if (hessian.rows() != hessian.cols()) {
    throw ArgumentError(
        fmt::format("hessian: expected a square matrix, found [{}, {}]", hessian.rows(), hessian.cols()));
  }
  rotate_columns(hessian, block_size);
  transpose_square(hessian);
  rotate_columns(hessian, block_size);
  for (int64_t r = 0; r < hessian.rows(); ++r) {
    for (int64_t c = r + 1; c < hessian.cols(); ++c) hessian(c, r) = hessian(r, c);
  }
}

}  // namespace metal_marlin

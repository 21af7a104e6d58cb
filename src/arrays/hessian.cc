#include "arrays/hessian.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "arrays/array_input.h"
#include "core/threads.h"
#include "kernels/linear_algebra.h"

namespace metal_marlin {
namespace {

constexpr double kAsymmetry =
    1e-4;  // largest |H_ij - H_ji| relative to the diagonal; allows for other programs' rounding to float32
constexpr int64_t kTokens = 512;  // tokens of one product in float64
constexpr int64_t kTile = 256;    // columns of a tile of the Hessian

}  // namespace

Matrix load_weight(const ArrayView& array, const char* name) {
  expect_float(array, name);
  expect_shape(array, name, {-1, -1}, "[N, K]");
  return load_matrix(array, name);
}

Matrix load_hessian(const ArrayView& array, int64_t k, const char* name) {
  expect_float(array, name);
  expect_shape(array, name, {k, k}, "[K, K]");
  Matrix h = load_matrix(array, name);
  for (int64_t i = 0; i < k; ++i) {
    if (h(i, i) < 0)
      throw NumericError(fmt::format("{}: expected a diagonal >= 0, found {} at [{}, {}]", name, h(i, i), i, i));
  }
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = i + 1; j < k; ++j) {
      const double size = std::sqrt(static_cast<double>(h(i, i)) * h(j, j));
      if (std::fabs(static_cast<double>(h(i, j)) - h(j, i)) > kAsymmetry * size) {
        throw ArgumentError(fmt::format(
            "{}: expected a symmetric matrix, as compute_hessian makes it, found {} at [{}, {}] and {} at [{}, {}]",
            name, h(i, j), i, j, h(j, i), j, i));
      }
    }
  }
  return h;
}

Array sum_of_products(const ArrayView& activations, double factor, const char* name) {
  const int64_t k = expect_activations(activations, name);
  Array out(ElementType::kF64, {k, k});
  double* h = out.as<double>();
  const int64_t tiles = (k + kTile - 1) / kTile;
  for_each_batch(activations, name, [&](const float* rows, int64_t count) {
    for (int64_t first = 0; first < count; first += kTokens) {
      const int64_t tokens = std::min(kTokens, count - first);
      const std::vector<double> x(rows + first * k, rows + (first + tokens) * k);
      parallel_for(tiles * tiles, [&](int64_t i) {
        const int64_t row = i / tiles * kTile;
        const int64_t column = i % tiles * kTile;
        if (column < row) return;
        dgemm_tile(true, false, std::min(kTile, k - row), std::min(kTile, k - column), tokens, factor, x.data() + row,
                   k, x.data() + column, k, 1.0, h + row * k + column, k);
      });
    }
  });
  for (int64_t r = 0; r < k; ++r) {
    for (int64_t c = r + 1; c < k; ++c) h[c * k + r] = h[r * k + c];
  }
  return out;
}

void expect_damping(double damping, const char* name) {
  if (!(damping >= 0 && damping <= 1))
    throw ArgumentError(name, fmt::format("{}: expected 0 to 1, found {}", name, damping));
}

}  // namespace metal_marlin

#include "quantize/rounding/gptq_factor.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <numeric>

#include "core/counted.h"
#include "core/threads.h"
#include "kernels/linear_algebra.h"
#include "quantize/lanes.h"

namespace metal_marlin {
namespace {

constexpr int kRetries = 3;
constexpr int64_t kRowTile = 64;  // of elementwise loops over the factor

struct Diagonal {
  std::vector<double> values;
  double mean = 0;
};

Diagonal diagonal_of(const Matrix& gram) {
  Diagonal diagonal;
  diagonal.values.resize(static_cast<size_t>(gram.rows()));
  for (int64_t k = 0; k < gram.rows(); ++k) {
    const int64_t at = first_not_finite(gram.data() + k * gram.cols() + k, gram.cols() - k);
    if (at >= 0 || gram(k, k) < 0) {
      throw NumericError(
          fmt::format("gram: expected finite values and a diagonal >= 0, found {} at [{}, {}]; check the activations",
                      at >= 0 ? gram(k, k + at) : gram(k, k), k, at >= 0 ? k + at : k));
    }
    diagonal.values[static_cast<size_t>(k)] = gram(k, k);
    diagonal.mean += gram(k, k);
  }
  diagonal.mean /= static_cast<double>(gram.rows());
  return diagonal;
}

// The damped diagonal of H.
std::vector<double> damped(const Diagonal& diagonal, double damping, bool relative) {
  std::vector<double> values = diagonal.values;
  if (diagonal.mean == 0) std::fill(values.begin(), values.end(), 1.0);
  const double mean = diagonal.mean == 0 ? 1.0 : diagonal.mean;
  for (double& v : values) v += (relative ? v : mean) * damping + mean * kDeadDamping;
  return values;
}

std::vector<int32_t> column_order(const std::vector<double>& diagonal, bool act_order) {
  std::vector<int32_t> order(diagonal.size());
  std::iota(order.begin(), order.end(), 0);
  if (act_order) {
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
      return diagonal[static_cast<size_t>(a)] > diagonal[static_cast<size_t>(b)];
    });
  }
  return order;
}

}  // namespace

// With J the reversal of rows and columns and J H J = L L^T, R = J L J is upper triangular and H = R R^T; so H^-1 = U^T
// U for U = R^-1 = J L^-1 J: one factorization and one triangular inverse instead of two factorizations and an inverse.
GptqFactor make_gptq_factor(const Matrix& gram, const GptqOptions& options) {
  const int64_t k = gram.rows();
  if (k == 0 || gram.cols() != k) {
    throw ArgumentError(fmt::format("gram: expected a square matrix, found [{}, {}]", gram.rows(), gram.cols()));
  }
  if (!(options.damping >= 0)) {
    throw ArgumentError(fmt::format("damping: expected a number >= 0, found {}", options.damping));
  }
  const Diagonal diagonal = diagonal_of(gram);
  GptqFactor factor;
  factor.damping = options.damping;
  Buffer memory(static_cast<size_t>(k * k) * sizeof(double));
  auto* a = reinterpret_cast<double*>(memory.data());
  const int64_t tiles = (k + kRowTile - 1) / kRowTile;
  for (;; ++factor.retries) {
    const std::vector<double> values = damped(diagonal, factor.damping, options.relative_damping);
    factor.order = column_order(values, options.act_order);
    const auto source = [&](int64_t i) { return static_cast<int64_t>(factor.order[static_cast<size_t>(k - 1 - i)]); };
    parallel_for(tiles, [&](int64_t tile) {
      for (int64_t i = tile * kRowTile; i < std::min((tile + 1) * kRowTile, k); ++i) {
        const int64_t p = source(i);
        for (int64_t j = 0; j < i; ++j) {
          const int64_t q = source(j);
          a[i * k + j] = gram(std::min(p, q), std::max(p, q));
        }
        a[i * k + i] = values[static_cast<size_t>(p)];
      }
    });
    const int64_t failed = cholesky_lower(a, k);
    if (failed < 0) break;
    if (factor.retries == kRetries) {
      throw NumericError(
          fmt::format("gram: not positive definite at column {} of {} even with damping {}; calibrate with more "
                      "tokens, raise the damping, or use another method for this linear",
                      source(failed), k, factor.damping));
    }
    factor.damping = std::max(factor.damping, 1e-3) * 10;
  }
  invert_lower(a, k);
  factor.upper = Matrix(k, k);
  parallel_for(tiles, [&](int64_t tile) {
    for (int64_t i = tile * kRowTile; i < std::min((tile + 1) * kRowTile, k); ++i) {
      const double* row = a + (k - 1 - i) * k;
      for (int64_t j = i; j < k; ++j) factor.upper(i, j) = static_cast<float>(row[k - 1 - j]);
    }
  });
  return factor;
}

std::vector<int32_t> sort_columns(Matrix& weight, Matrix& gram) {
  std::vector<int32_t> order = column_order(diagonal_of(gram).values, true);
  const auto move_columns = [&](Matrix& matrix) {
    parallel_for((matrix.rows() + kRowTile - 1) / kRowTile, [&](int64_t tile) {
      std::vector<float> from(order.size());
      for (int64_t r = tile * kRowTile; r < std::min((tile + 1) * kRowTile, matrix.rows()); ++r) {
        const std::span<float> row = matrix.row(r);
        std::copy(row.begin(), row.end(), from.begin());
        for (size_t j = 0; j < order.size(); ++j) row[j] = from[static_cast<size_t>(order[j])];
      }
    });
  };
  move_columns(weight);
  move_columns(gram);
  Matrix rows(gram.rows(), gram.cols());
  for (size_t j = 0; j < order.size(); ++j) {
    std::copy_n(gram.row(order[j]).data(), gram.cols(), rows.row(static_cast<int64_t>(j)).data());
  }
  gram = std::move(rows);
  return order;
}

void scale_factor(GptqFactor& factor, std::span<const float> scale) {
  const int64_t k = factor.upper.rows();
  if (static_cast<int64_t>(scale.size()) != k) {
    throw ArgumentError(fmt::format("scale: expected {}, found {}", counted(k, "value"), scale.size()));
  }
  std::vector<float> ordered(scale.size());
  for (size_t j = 0; j < ordered.size(); ++j) ordered[j] = scale[static_cast<size_t>(factor.order[j])];
  parallel_for((k + kRowTile - 1) / kRowTile, [&](int64_t tile) {
    for (int64_t i = tile * kRowTile; i < std::min((tile + 1) * kRowTile, k); ++i) {
      float* row = factor.upper.row(i).data();
      for (int64_t j = i; j < k; ++j) row[j] *= ordered[static_cast<size_t>(j)];
    }
  });
}

void require_factor(const GptqFactor& factor, int64_t in_features) {
  if (factor.upper.rows() == in_features && factor.upper.cols() == in_features &&
      static_cast<int64_t>(factor.order.size()) == in_features) {
    return;
  }
  throw ArgumentError(fmt::format("factor: expected one of {}, found [{}, {}] with an order of {}",
                                  counted(in_features, "column"), factor.upper.rows(), factor.upper.cols(),
                                  factor.order.size()));
}

}  // namespace metal_marlin

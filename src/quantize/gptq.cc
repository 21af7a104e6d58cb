#include "quantize/gptq.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <array>
#include <numeric>

#include "core/counted.h"
#include "core/threads.h"
#include "kernels/linear_algebra.h"
#include "quantize/candidates.h"
#include "quantize/lanes.h"

namespace metal_marlin {
namespace {

constexpr int64_t kBlock =
    64;  // columns of a block; between blocks one product applies the errors of all columns before
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

QuantizedTensor quantize_gptq(const Matrix& weight, const GptqFactor& factor, const GroupRanges& ranges,
                              const Grid& grid) {
  require_arguments(weight, grid, &factor.upper);
  require_ranges(ranges, weight, grid);
  const int64_t k = weight.cols();
  if (static_cast<int64_t>(factor.order.size()) != k) {
    throw ArgumentError(
        fmt::format("factor: expected an order of {}, found {}", counted(k, "column"), factor.order.size()));
  }
  QuantizedTensor out{
      weight.rows(),  k, ranges.group_size, grid.bits, grid.symmetric, {}, ranges.scales, ranges.zeros, ranges.minima,
      grid.scale_type};
  out.codes.resize(static_cast<size_t>(weight.size()));
  const int64_t groups = ranges.groups();
  const float top = static_cast<float>(grid.levels() - 1);
  parallel_for((weight.rows() + kLaneRows - 1) / kLaneRows, [&](int64_t tile) {
    const int64_t row = tile * kLaneRows;
    const int64_t rows = std::min(kLaneRows, weight.rows() - row);
    std::vector<float> w(static_cast<size_t>(k * kLaneRows));
    std::vector<float> err(w.size());
    std::vector<float> scales(static_cast<size_t>(groups * kLaneRows), 1.0f);
    std::vector<float> zeros(scales.size());
    for (int64_t r = 0; r < rows; ++r) {
      const float* from = weight.row(row + r).data();
      for (int64_t j = 0; j < k; ++j) {
        w[static_cast<size_t>(j * kLaneRows + r)] = from[factor.order[static_cast<size_t>(j)]];
      }
      // Values are rounded, and changed by the errors of other columns, relative to the group's minimum.
      for (int64_t j = 0; grid.minimum && j < k; ++j) {
        const int64_t g = factor.order[static_cast<size_t>(j)] / ranges.group_size;
        w[static_cast<size_t>(j * kLaneRows + r)] -= ranges.minimum(static_cast<size_t>((row + r) * groups + g), grid);
      }
      for (int64_t g = 0; g < groups; ++g) {
        const auto at = static_cast<size_t>((row + r) * groups + g);
        scales[static_cast<size_t>(g * kLaneRows + r)] = decode_scale(ranges.scales[at], grid.scale_type);
        zeros[static_cast<size_t>(g * kLaneRows + r)] = ranges.zeros[at];
      }
    }
    std::array<float, kBlock * kBlock> u;
    std::array<float, kBlock> inverse_pivot;
    std::array<const float*, kBlock> block_scales;
    std::array<const float*, kBlock> block_zeros;
    std::array<uint8_t, kBlock * kLaneRows> codes;
    for (int64_t start = 0; start < k; start += kBlock) {
      const int64_t width = std::min(kBlock, k - start);
      float* block = w.data() + start * kLaneRows;
      if (start > 0) {
        sgemm_tile(true, false, width, kLaneRows, start, -1.0f, factor.upper.data() + start, k, err.data(), kLaneRows,
                   1.0f, block, kLaneRows);
      }
      for (int64_t j = 0; j < width; ++j) {
        for (int64_t i = 0; i < j; ++i) u[static_cast<size_t>(j * width + i)] = factor.upper(start + i, start + j);
        inverse_pivot[static_cast<size_t>(j)] = 1.0f / factor.upper(start + j, start + j);
        const int64_t g = factor.order[static_cast<size_t>(start + j)] / ranges.group_size;
        block_scales[static_cast<size_t>(j)] = scales.data() + g * kLaneRows;
        block_zeros[static_cast<size_t>(j)] = zeros.data() + g * kLaneRows;
      }
      gptq_block(block, width, u.data(), inverse_pivot.data(), block_scales.data(), block_zeros.data(), top,
                 codes.data(), err.data() + start * kLaneRows);
      for (int64_t r = 0; r < rows; ++r) {
        uint8_t* to = out.codes.data() + (row + r) * k;
        for (int64_t j = 0; j < width; ++j) {
          to[factor.order[static_cast<size_t>(start + j)]] = codes[static_cast<size_t>(j * kLaneRows + r)];
        }
      }
    }
  });
  return out;
}

uint64_t gptq_memory_bytes(int64_t in_features, int64_t out_features) {
  const auto k = static_cast<uint64_t>(in_features);
  const auto n = static_cast<uint64_t>(out_features);
  // About half of a triangle's pages are touched, and on average another half page per row at its edge.
  const auto triangle = [k](uint64_t element) { return k * (k * element / 2 + 2048); };
  constexpr uint64_t kPanels = 2 * 128 * sizeof(double);     // of invert_lower, per column
  constexpr uint64_t kTile = 2 * kLaneRows * sizeof(float);  // of quantize_gptq, per column and thread
  const uint64_t factorizing = triangle(sizeof(double)) + std::max(triangle(sizeof(float)), k * kPanels);
  const uint64_t rounding = triangle(sizeof(float)) + n * k + static_cast<uint64_t>(threads()) * k * kTile;
  return std::max(factorizing, rounding);
}

}  // namespace metal_marlin

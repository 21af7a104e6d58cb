#include "quantize/errors.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "core/threads.h"
#include "kernels/linear_algebra.h"
#include "quantize/lanes.h"

namespace metal_marlin {
namespace {

struct Sums {
  double error = 0;         // ||E||^2
  double weight = 0;        // ||W||^2
  double output_error = 0;  // tr(E G E^T)
  double output = 0;        // tr(W G W^T)
  int64_t clipped = 0;
  int64_t saturated = 0;

  void add(const Sums& other) noexcept {
    error += other.error;
    weight += other.weight;
    output_error += other.output_error;
    output += other.output;
    clipped += other.clipped;
    saturated += other.saturated;
  }
};

double relative(double numerator, double denominator) noexcept {
  // A quadratic form close to zero may come out negative by rounding.
  numerator = std::max(numerator, 0.0);
  if (denominator <= 0) return numerator == 0 ? 0.0 : std::numeric_limits<double>::infinity();
  return std::sqrt(numerator / denominator);
}

}  // namespace

LinearErrors linear_errors(const Matrix& weight, const QuantizedTensor& quantized, const Matrix* gram) {
  const int64_t k = weight.cols();
  if (quantized.out_features != weight.rows() || quantized.in_features != k) {
    throw ArgumentError(fmt::format("quantized: expected [{}, {}] as the weight, found [{}, {}]", weight.rows(), k,
                                    quantized.out_features, quantized.in_features));
  }
  if (gram != nullptr && (gram->rows() != k || gram->cols() != k)) {
    throw ArgumentError(fmt::format("gram: expected [{}, {}], found [{}, {}]", k, k, gram->rows(), gram->cols()));
  }
  validate(quantized, "quantized");
  const int64_t tiles = (weight.rows() + kLaneRows - 1) / kLaneRows;
  const int64_t groups = quantized.groups();
  const int top = quantized.grid().levels() - 1;
  std::vector<Sums> parts(static_cast<size_t>(tiles));
  parallel_for(tiles, [&](int64_t tile) {
    Sums& part = parts[static_cast<size_t>(tile)];
    const int64_t first = tile * kLaneRows;
    const int64_t rows = std::min(kLaneRows, weight.rows() - first);
    std::vector<float> error(static_cast<size_t>(rows * k));
    dequantize_rows(quantized, first, rows, error.data());
    for (int64_t r = 0; r < rows; ++r) {
      const float* w = weight.row(first + r).data();
      const uint8_t* codes = quantized.codes.data() + (first + r) * k;
      float* e = error.data() + r * k;
      for (int64_t g = 0; g < groups; ++g) {
        const auto at = static_cast<size_t>((first + r) * groups + g);
        const float scale = quantized.scale(at);
        const float minimum = quantized.minimum(at);
        // The outer edges of the first and the last step. Weights beyond them are clipped.
        const float zero = static_cast<float>(quantized.zeros[at]);
        const float edge_a = (-0.5f - zero) * scale + minimum;
        const float edge_b = (static_cast<float>(top) + 0.5f - zero) * scale + minimum;
        const float low = std::min(edge_a, edge_b);
        const float high = std::max(edge_a, edge_b);
        const int64_t start = g * quantized.group_size;
        const int64_t end = std::min(start + quantized.group_size, k);
        double error_sum = 0;
        double weight_sum = 0;
        int64_t clipped = 0;
        int64_t saturated = 0;
        for (int64_t c = start; c < end; ++c) {
          e[c] -= w[c];
          error_sum += static_cast<double>(e[c]) * e[c];
          weight_sum += static_cast<double>(w[c]) * w[c];
          clipped += static_cast<int64_t>(w[c] < low) + static_cast<int64_t>(w[c] > high);
          saturated += static_cast<int64_t>(codes[c] == 0) + static_cast<int64_t>(codes[c] == top);
        }
        part.error += error_sum;
        part.weight += weight_sum;
        part.clipped += clipped;
        part.saturated += saturated;
      }
    }
    if (gram != nullptr) {
      std::vector<float> scratch(static_cast<size_t>(rows * kQuadraticColumns));
      std::vector<double> forms(static_cast<size_t>(rows));
      quadratic_rows(error.data(), rows, k, gram->data(), k, k, scratch.data(), forms.data());
      for (const double v : forms) part.output_error += v;
      quadratic_rows(weight.row(first).data(), rows, k, gram->data(), k, k, scratch.data(), forms.data());
      for (const double v : forms) part.output += v;
    }
  });
  Sums sums;
  for (const Sums& part : parts) sums.add(part);
  LinearErrors errors;
  const auto count = static_cast<double>(weight.size());
  errors.weight_error = relative(sums.error, sums.weight);
  if (gram != nullptr) errors.output_error = relative(sums.output_error, sums.output);
  errors.clipped_share = static_cast<double>(sums.clipped) / count;
  errors.saturated_share = static_cast<double>(sums.saturated) / count;
  errors.least_scale = std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < quantized.scales.size(); ++i) {
    const double scale = std::fabs(quantized.scale(i));
    errors.least_scale = std::min(errors.least_scale, scale);
    errors.largest_scale = std::max(errors.largest_scale, scale);
  }
  return errors;
}

}  // namespace metal_marlin

#include "quantize/errors.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "core/counted.h"
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
  double largest = 0;       // max |E|
  int64_t clipped = 0;
  int64_t saturated = 0;

  void add(const Sums& other) noexcept {
    error += other.error;
    weight += other.weight;
    output_error += other.output_error;
    output += other.output;
    largest = std::max(largest, other.largest);
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

// Rows of a tile. A product of more rows packs G less often; small weights are cut finer, so that all threads have
// some, and a tile of errors and weights takes at most 8 MiB where the inputs are not very many.
int64_t tile_rows(const Matrix& weight) noexcept {
  constexpr int64_t kTiles = 16;
  constexpr int64_t kFloats = int64_t{1} << 20;
  const int64_t wanted = std::min(weight.rows() / kTiles, kFloats / weight.cols());
  return std::clamp(wanted / kLaneRows, int64_t{1}, int64_t{4}) * kLaneRows;
}

// The errors of a tile's rows [rows, in], and the rows themselves behind them.
struct Tile {
  Tile(const Matrix& weight, int64_t first_row, int64_t most)
      : first(first_row), rows(std::min(most, weight.rows() - first_row)), k(weight.cols()) {
    const float* w = weight.row(first).data();
    values.resize(static_cast<size_t>(2 * rows * k));
    std::copy_n(w, rows * k, values.begin() + rows * k);
  }
  float* error(int64_t r) noexcept { return values.data() + r * k; }
  const float* weight(int64_t r) const noexcept { return values.data() + (rows + r) * k; }
  void add_outputs(const Matrix* gram, Sums& part) const {
    if (gram == nullptr) return;
    std::vector<float> scratch(static_cast<size_t>(2 * rows * kQuadraticColumns));
    std::vector<double> forms(static_cast<size_t>(2 * rows));
    quadratic_rows(values.data(), 2 * rows, k, gram->data(), k, k, scratch.data(), forms.data());
    for (int64_t r = 0; r < rows; ++r) {
      part.output_error += forms[static_cast<size_t>(r)];
      part.output += forms[static_cast<size_t>(rows + r)];
    }
  }

  int64_t first;
  int64_t rows;
  int64_t k;
  std::vector<float> values;
};

// The sums of all tiles. fn(tile, part) fills the errors and adds to the sums all but the outputs.
template <typename Fn>
Sums sum_tiles(const Matrix& weight, const Matrix* gram, const Fn& fn) {
  const int64_t most = tile_rows(weight);
  std::vector<Sums> parts(static_cast<size_t>((weight.rows() + most - 1) / most));
  parallel_for(std::ssize(parts), [&](int64_t i) {
    Tile tile(weight, i * most, most);
    Sums& part = parts[static_cast<size_t>(i)];
    fn(tile, part);
    tile.add_outputs(gram, part);
  });
  Sums sums;
  for (const Sums& part : parts) sums.add(part);
  return sums;
}

void set_norms(const Sums& sums, bool outputs, ErrorNorms& errors) {
  errors.weight_error = relative(sums.error, sums.weight);
  errors.squared_error = sums.error;
  if (!outputs) return;
  errors.output_error = relative(sums.output_error, sums.output);
  errors.squared_output_error = std::max(sums.output_error, 0.0);
}

void require_gram(const Matrix& weight, const Matrix* gram) {
  const int64_t k = weight.cols();
  if (gram != nullptr && (gram->rows() != k || gram->cols() != k)) {
    throw ArgumentError(fmt::format("gram: expected [{}, {}], found [{}, {}]", k, k, gram->rows(), gram->cols()));
  }
}

}  // namespace

ValueErrors value_errors(const Matrix& weight, const Matrix& values, const Matrix* gram) {
  const int64_t k = weight.cols();
  if (values.rows() != weight.rows() || values.cols() != k) {
    throw ArgumentError(fmt::format("values: expected [{}, {}] as the weight, found [{}, {}]", weight.rows(), k,
                                    values.rows(), values.cols()));
  }
  require_gram(weight, gram);
  const Sums sums = sum_tiles(weight, gram, [&](Tile& tile, Sums& part) {
    float* e = tile.error(0);
    const float* w = tile.weight(0);
    const float* v = values.row(tile.first).data();
    for (int64_t i = 0; i < tile.rows * k; ++i) {
      e[i] = v[i] - w[i];
      part.error += static_cast<double>(e[i]) * e[i];
      part.weight += static_cast<double>(w[i]) * w[i];
      part.largest = std::max(part.largest, static_cast<double>(std::fabs(e[i])));
    }
  });
  ValueErrors errors;
  set_norms(sums, gram != nullptr, errors);
  errors.largest_error = sums.largest;
  return errors;
}

LinearErrors linear_errors(const Matrix& weight, const QuantizedTensor& quantized, const Matrix* gram,
                           std::span<const float> input_scale) {
  const int64_t k = weight.cols();
  if (!input_scale.empty() && static_cast<int64_t>(input_scale.size()) != k) {
    throw ArgumentError(fmt::format("input_scale: expected {}, found {}", counted(k, "value"), input_scale.size()));
  }
  if (!quantized.group_index.empty()) throw ArgumentError("quantized: expected groups of neighbours, found act order");
  if (quantized.out_features != weight.rows() || quantized.in_features != k) {
    throw ArgumentError(fmt::format("quantized: expected [{}, {}] as the weight, found [{}, {}]", weight.rows(), k,
                                    quantized.out_features, quantized.in_features));
  }
  require_gram(weight, gram);
  validate(quantized, "quantized");
  const int64_t groups = quantized.groups();
  const int top = quantized.grid().levels() - 1;
  const Sums sums = sum_tiles(weight, gram, [&](Tile& tile, Sums& part) {
    dequantize_rows(quantized, tile.first, tile.rows, tile.error(0));
    for (int64_t r = 0; r < tile.rows; ++r) {
      const float* w = tile.weight(r);
      const uint8_t* codes = quantized.codes.data() + (tile.first + r) * k;
      float* e = tile.error(r);
      for (int64_t g = 0; g < groups; ++g) {
        const auto at = static_cast<size_t>((tile.first + r) * groups + g);
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
        if (!input_scale.empty()) {
          error_sum = weight_sum = 0;
          for (int64_t c = start; c < end; ++c) {
            const double s = input_scale[static_cast<size_t>(c)];
            error_sum += e[c] / s * (e[c] / s);
            weight_sum += w[c] / s * (w[c] / s);
          }
        }
        part.error += error_sum;
        part.weight += weight_sum;
        part.clipped += clipped;
        part.saturated += saturated;
      }
    }
  });
  LinearErrors errors;
  const auto count = static_cast<double>(weight.size());
  set_norms(sums, gram != nullptr, errors);
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

#include "quantize/errors.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "quantize/reference.h"
#include "quantize/rounding/rtn.h"

namespace metal_marlin {
namespace {

using reference::normal_matrix;
constexpr double kRelative = 1e-5;  // float32 products against float64 ones

TEST(LinearErrors, EqualTheOutputsOfTheInputsThemselves) {
  const Matrix weight = normal_matrix(67, 100, 1, 0.05);
  const Matrix x = reference::activations(300, 100, 2);
  const Matrix gram = reference::gram_of(x);
  const Grid grid{4, true, 32};
  const QuantizedTensor q = quantize_rtn(weight, group_ranges(weight, grid), grid);
  const Matrix back = dequantize(q);
  double error = 0, norm = 0, output_error = 0, output = 0;
  for (int64_t n = 0; n < 67; ++n) {
    for (int64_t k = 0; k < 100; ++k) {
      const double e = static_cast<double>(back(n, k)) - weight(n, k);
      error += e * e;
      norm += static_cast<double>(weight(n, k)) * weight(n, k);
    }
    for (int64_t t = 0; t < 300; ++t) {
      double y = 0, dy = 0;
      for (int64_t k = 0; k < 100; ++k) {
        y += static_cast<double>(x(t, k)) * weight(n, k);
        dy += static_cast<double>(x(t, k)) * (static_cast<double>(back(n, k)) - weight(n, k));
      }
      output += y * y;
      output_error += dy * dy;
    }
  }
  const LinearErrors errors = linear_errors(weight, q, &gram);
  EXPECT_NEAR(errors.weight_error, std::sqrt(error / norm), kRelative * errors.weight_error);
  EXPECT_NEAR(errors.output_error, std::sqrt(output_error / output), kRelative * errors.output_error);
  EXPECT_EQ(errors.clipped_share, 0);
  EXPECT_GT(errors.least_scale, 0);
  EXPECT_LE(errors.least_scale, errors.largest_scale);
  EXPECT_EQ(linear_errors(weight, q, nullptr).output_error, -1);
}

// Many rows are measured in larger tiles, the last of which is a part.
TEST(LinearErrors, OfManyRowsAreThoseOfTheirParts) {
  const Matrix gram = reference::gram_of(reference::activations(80, 24, 2));
  const Grid grid{4, true, 8};
  const auto errors_of = [&](const Matrix& weight) {
    return linear_errors(weight, quantize_rtn(weight, group_ranges(weight, grid), grid), &gram);
  };
  const Matrix weight = normal_matrix(2500, 24, 1, 0.05);
  double squared = 0;
  double outputs = 0;
  for (int64_t first = 0; first < weight.rows(); first += 50) {
    Matrix part(50, 24);
    std::copy_n(weight.row(first).data(), part.size(), part.data());
    const LinearErrors errors = errors_of(part);
    squared += errors.squared_error;
    outputs += errors.squared_output_error;
  }
  const LinearErrors whole = errors_of(weight);
  EXPECT_NEAR(whole.squared_error, squared, kRelative * squared);
  EXPECT_NEAR(whole.squared_output_error, outputs, kRelative * outputs);
}

TEST(LinearErrors, CountsClippedAndSaturated) {
  Matrix weight(1, 8);
  const float values[] = {-9.0f, -8.4f, -8.0f, 0.0f, 7.0f, 7.4f, 7.6f, 100.0f};
  std::copy(std::begin(values), std::end(values), weight.values().begin());
  QuantizedTensor q{1, 8, 8, 4, true, {0, 0, 0, 8, 15, 15, 15, 15}, {f32_to_f16(1.0f)}, {8}};
  EXPECT_DOUBLE_EQ(linear_errors(weight, q, nullptr).clipped_share, 3.0 / 8);
  EXPECT_DOUBLE_EQ(linear_errors(weight, q, nullptr).saturated_share, 7.0 / 8);
  // A negative scale mirrors the grid: -7.5 .. 8.5.
  q.scales[0] = f32_to_f16(-1.0f);
  EXPECT_DOUBLE_EQ(linear_errors(weight, q, nullptr).clipped_share, 4.0 / 8);
  EXPECT_EQ(linear_errors(weight, q, nullptr).least_scale, 1.0);
}

TEST(LinearErrors, ZeroWeightsHaveNoError) {
  const Matrix weight(3, 40);
  const Matrix gram = reference::gram_of(reference::activations(50, 40, 2));
  const Grid grid{4, false, 32};
  const LinearErrors errors = linear_errors(weight, quantize_rtn(weight, group_ranges(weight, grid), grid), &gram);
  EXPECT_EQ(errors.weight_error, 0);
  EXPECT_EQ(errors.output_error, 0);
}

TEST(LinearErrors, OfTheUnscaledWeight) {
  const Matrix weight = normal_matrix(70, 96, 3, 0.05);
  const Matrix gram = reference::gram_of(reference::activations(200, 96, 4));
  const Grid grid{4, false, 32};
  std::vector<float> scale(96);
  for (size_t k = 0; k < scale.size(); ++k) scale[k] = 0.5f + 0.1f * static_cast<float>(k % 17);
  Matrix scaled = weight.clone();
  for (int64_t n = 0; n < 70; ++n) {
    for (int64_t k = 0; k < 96; ++k) scaled(n, k) *= scale[static_cast<size_t>(k)];
  }
  const QuantizedTensor q = quantize_rtn(scaled, group_ranges(scaled, grid), grid);
  const Matrix back = dequantize(q);
  double error = 0, norm = 0;
  for (int64_t n = 0; n < 70; ++n) {
    for (int64_t k = 0; k < 96; ++k) {
      const double e = static_cast<double>(back(n, k)) / scale[static_cast<size_t>(k)] - weight(n, k);
      error += e * e;
      norm += static_cast<double>(weight(n, k)) * weight(n, k);
    }
  }
  const LinearErrors errors = linear_errors(scaled, q, &gram, scale);
  EXPECT_NEAR(errors.squared_error, error, 1e-4 * error);
  EXPECT_NEAR(errors.weight_error, std::sqrt(error / norm), 1e-4 * errors.weight_error);
  // The rest is of the scaled weight.
  const LinearErrors plain = linear_errors(scaled, q, &gram);
  EXPECT_EQ(errors.output_error, plain.output_error);
  EXPECT_EQ(errors.squared_output_error, plain.squared_output_error);
  EXPECT_EQ(errors.clipped_share, plain.clipped_share);
  scale.pop_back();
  EXPECT_THROW(linear_errors(scaled, q, &gram, scale), ArgumentError);
}

TEST(ValueErrors, AreThoseOfTheSameValuesOnAGrid) {
  const Matrix weight = normal_matrix(67, 100, 5, 0.05);
  const Matrix gram = reference::gram_of(reference::activations(300, 100, 6));
  const Grid grid{4, true, 32};
  const QuantizedTensor q = quantize_rtn(weight, group_ranges(weight, grid), grid);
  const Matrix values = dequantize(q);
  const LinearErrors expected = linear_errors(weight, q, &gram);
  const ValueErrors errors = value_errors(weight, values, &gram);
  EXPECT_NEAR(errors.weight_error, expected.weight_error, 1e-12);
  EXPECT_NEAR(errors.squared_error, expected.squared_error, 1e-12 * expected.squared_error);
  EXPECT_EQ(errors.output_error, expected.output_error);
  EXPECT_EQ(errors.squared_output_error, expected.squared_output_error);
  double largest = 0;
  for (int64_t i = 0; i < weight.size(); ++i) {
    largest = std::max(largest, std::fabs(static_cast<double>(values.data()[i] - weight.data()[i])));
  }
  EXPECT_EQ(errors.largest_error, largest);
  EXPECT_EQ(value_errors(weight, values, nullptr).squared_output_error, -1);
  EXPECT_THROW(value_errors(weight, Matrix(67, 99), &gram), ArgumentError);
  EXPECT_THROW(value_errors(weight, values, &weight), ArgumentError);
}

TEST(LinearErrors, Refuses) {
  const Matrix weight = normal_matrix(2, 32, 1);
  const Grid grid{4, true, 32};
  QuantizedTensor q = quantize_rtn(weight, group_ranges(weight, grid), grid);
  const Matrix gram(31, 32);
  EXPECT_THROW(linear_errors(weight, q, &gram), ArgumentError);
  EXPECT_THROW(linear_errors(normal_matrix(2, 33, 1), q, nullptr), ArgumentError);
  q.group_index.assign(32, 0);
  EXPECT_THROW(linear_errors(weight, q, nullptr), ArgumentError);
  q.group_index.clear();
  q.codes.pop_back();
  EXPECT_THROW(linear_errors(weight, q, nullptr), FormatError);
}

}  // namespace
}  // namespace metal_marlin

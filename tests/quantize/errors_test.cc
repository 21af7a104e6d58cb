#include "quantize/errors.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include "quantize/reference.h"
#include "quantize/rtn.h"

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

TEST(LinearErrors, Refuses) {
  const Matrix weight = normal_matrix(2, 32, 1);
  const Grid grid{4, true, 32};
  QuantizedTensor q = quantize_rtn(weight, group_ranges(weight, grid), grid);
  const Matrix gram(31, 32);
  EXPECT_THROW(linear_errors(weight, q, &gram), ArgumentError);
  EXPECT_THROW(linear_errors(normal_matrix(2, 33, 1), q, nullptr), ArgumentError);
  q.codes.pop_back();
  EXPECT_THROW(linear_errors(weight, q, nullptr), FormatError);
}

}  // namespace
}  // namespace metal_marlin

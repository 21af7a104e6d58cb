// What the tests of products with codes share: inputs, float64 arithmetic with a derived bound, one product.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <span>
#include <vector>

#include "core/half.h"
#include "core/random.h"
#include "kernels/codes/kernels.h"
#include "kernels/weight_matrix.h"

namespace metal_marlin::test {

inline std::vector<float> random_rows(int64_t count, Random& random) {
  std::vector<float> x(static_cast<size_t>(count));
  for (float& v : x) v = static_cast<float>(random.normal() * std::exp(random.normal()));
  return x;
}

// What row `r` of x gives for output n, in float64, and how far the arithmetic may be from it: activations are rounded
// by at most half a step of their segment; of S segments, each factor and each addition rounds once more.
struct Exact {
  double value = 0;
  double bound = 0;
};
struct Weight {  // code * scale + minimum
  double code = 0;
  double scale = 0;
  double minimum = 0;
};
// `weight`: of a channel for this output.
inline Exact exact(const std::function<Weight(int64_t channel)>& weight, std::span<const uint16_t> q_scale,
                   const SegmentPlan& plan, const float* x) {
  Exact e;
  double magnitudes = 0;
  for (const auto& piece : plan.pieces) {
    double largest = 0;
    const auto channel = [&](int64_t k) {
      return plan.order.empty() ? piece.first + k : plan.order[static_cast<size_t>(piece.first + k)];
    };
    const auto input = [&](int64_t k) {
      const auto c = static_cast<size_t>(channel(k));
      return q_scale.empty() ? static_cast<double>(x[c]) : x[c] / static_cast<double>(f16_to_f32(q_scale[c]));
    };
    for (int64_t k = 0; k < piece.count; ++k) largest = std::max(largest, std::fabs(input(k)));
    const double half_step = largest / 254 * (1 + 1e-5);
    for (int64_t k = 0; k < piece.count; ++k) {
      const Weight of = weight(channel(k));
      const double w = of.code * of.scale + of.minimum;
      e.value += w * input(k);
      e.bound += std::fabs(w) * half_step;
      magnitudes += (std::fabs(of.code * of.scale) + std::fabs(of.minimum)) * (std::fabs(input(k)) + half_step);
    }
  }
  e.bound += (2.0 * static_cast<double>(plan.segments()) + 6) * 0x1p-24 * magnitudes;
  return e;
}

inline const CodeKernels& scalar() {
  return supported_code_kernels().front();
}

// x W^T by a row of the table, rows at once as given.
inline std::vector<float> product(const CodeKernels& table, const WeightMatrix& w, const float* x, int64_t rows) {
  WeightInput input;
  input.assign(w, x, rows, false);
  const int64_t tiles = (w.out_features() + kTileOutputs - 1) / kTileOutputs;
  std::vector<float> y(static_cast<size_t>(rows * w.out_features()) + 16, -77.0f);
  table.multiply_codes(w.tiles(), 0, tiles, input.rounded(), rows, y.data(), w.out_features());
  EXPECT_EQ(y[static_cast<size_t>(rows * w.out_features())], -77.0f) << "writes beyond the last output";
  y.resize(static_cast<size_t>(rows * w.out_features()));
  return y;
}

}  // namespace metal_marlin::test

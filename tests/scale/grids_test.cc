// The scale search rounds on the grid that it is given.
#include <gtest/gtest.h>

#include <cmath>

#include "quantize/errors.h"
#include "quantize/reference.h"
#include "quantize/rounding/rtn.h"
#include "scale/search.h"

namespace metal_marlin {
namespace {

constexpr double kSumError = 1e-4;  // the same sums in float32 in another order

TEST(ScaleSearchGrids, TheLossOfNoScaleIsTheErrorOfRounding) {
  const Matrix gram = reference::gram_of(reference::activations(300, 96, 2));
  const Matrix weight = reference::normal_matrix(20, 96, 1, 0.05);
  for (const Grid& grid : {Grid{3, true, 32}, Grid{8, false, 32}, Grid{4, true, -1}, Grid{4, false, 32, true},
                           Grid{4, false, 48, true, ScaleType::kBF16}}) {
    ScaleSearchOptions options;
    options.grid = grid;
    const Matrix* const stack[] = {&weight};
    const std::vector<std::vector<float>> ones = {std::vector<float>(96, 1.0f)};
    const double loss = gram_losses(stack, gram, ones, options).front();
    const QuantizedTensor q = quantize_rtn(weight, group_ranges(weight, grid), grid);
    double size = 0;
    for (int64_t r = 0; r < weight.rows(); ++r) {
      size += reference::quadratic({weight.row(r).begin(), weight.row(r).end()}, gram, 0);
    }
    const double error = linear_errors(weight, q, &gram).output_error;
    EXPECT_NEAR(std::sqrt(loss / size), error, kSumError * error) << grid.bits;
    // And with scales the search finds something at least as good.
    ActivationStats stats;
    stats.in_features = 96;
    stats.gram = gram.clone();
    for (int64_t k = 0; k < 96; ++k) stats.mean.push_back(std::sqrt(gram(k, k)));
    const InputScale found = search_scale(LinearInput::kO, stack, stats, options);
    EXPECT_LE(found.loss_after, found.loss_before);
    EXPECT_NEAR(found.loss_before, loss, kSumError * loss);
  }
}

}  // namespace
}  // namespace metal_marlin

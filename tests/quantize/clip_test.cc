#include "quantize/clip.h"

#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include "quantize/reference.h"

namespace metal_marlin {
namespace {

using reference::normal_matrix;
constexpr double kNearTie = 2e-5;  // float32 losses against float64 ones

struct Tried {
  float limit;
  uint16_t scale;
  int zero;
  double loss;
};

// The authors' loop over shrunken maxima, with the Gram block in place of sampled inputs.
std::vector<Tried> candidates(const float* w, int64_t count, bool symmetric, const Matrix& gram, int64_t first) {
  std::vector<Tried> result;
  float magnitude = 0;
  float low = 0;
  float high = 0;
  for (int64_t k = 0; k < count; ++k) {
    magnitude = std::max(magnitude, std::fabs(w[k]));
    low = std::min(low, w[k]);
    high = std::max(high, w[k]);
  }
  for (int i = 0; i < 10; ++i) {
    const float limit = magnitude * static_cast<float>(1.0 - i / 20.0);
    const float l = std::max(low, -limit);
    const float h = std::min(high, limit);
    const uint16_t scale = f32_to_f16(std::max(symmetric ? limit / 7.0f : (h - l) / 15.0f, 0x1p-14f));
    const int zero = symmetric ? 8 : static_cast<int>(std::clamp(std::nearbyint(-l / f16_to_f32(scale)), 0.0f, 15.0f));
    result.push_back(
        {limit, scale, zero,
         reference::quadratic(reference::rounding_errors(w, count, f16_to_f32(scale), zero, 15), gram, first)});
  }
  return result;
}

TEST(Clip, EqualsTheAuthorsLoop) {
  const Matrix weight = normal_matrix(9, 160, 1, 0.05);
  const Matrix gram = reference::gram_of(reference::activations(300, 160, 2));
  for (const bool symmetric : {true, false}) {
    const Grid grid{4, symmetric, 64};
    const ClipResult clip = search_clip(weight, gram, grid);
    int64_t clipped = 0;
    for (int64_t r = 0; r < 9; ++r) {
      for (int64_t g = 0; g < 3; ++g) {
        const int64_t start = g * 64;
        const int64_t count = std::min<int64_t>(64, 160 - start);
        const std::vector<Tried> tried = candidates(weight.row(r).data() + start, count, symmetric, gram, start);
        const auto at = static_cast<size_t>(r * 3 + g);
        const auto found =
            std::find_if(tried.begin(), tried.end(), [&](const Tried& t) { return t.limit == clip.limits[at]; });
        ASSERT_NE(found, tried.end());
        EXPECT_EQ(found->scale, clip.ranges.scales[at]);
        EXPECT_EQ(found->zero, clip.ranges.zeros[at]);
        double best = tried[0].loss;
        for (const Tried& t : tried) best = std::min(best, t.loss);
        EXPECT_LE(found->loss, best * (1 + kNearTie));
        clipped += found != tried.begin() ? 1 : 0;
      }
    }
    EXPECT_EQ(clip.clipped_groups, clipped);
    EXPECT_GT(clipped, 0);
  }
}

TEST(Clip, AWeightOnTheGridIsNotClipped) {
  Matrix weight(2, 32);
  for (int64_t k = 0; k < 32; ++k) weight(0, k) = static_cast<float>(k % 15 - 7) * 0.25f;  // row 1 stays zero
  const Matrix gram = reference::gram_of(reference::activations(100, 32, 2));
  const ClipResult clip = search_clip(weight, gram, Grid{4, true, 32});
  EXPECT_EQ(clip.clipped_groups, 0);
  EXPECT_EQ(clip.limits[0], 1.75f);
  EXPECT_EQ(clip.limits[1], 0.0f);
  EXPECT_EQ(clip.ranges.counts.zero_groups, 1);
}

TEST(Clip, Refuses) {
  const Matrix weight = normal_matrix(2, 32, 1);
  const Matrix gram = normal_matrix(32, 32, 2);
  EXPECT_THROW(search_clip(weight, normal_matrix(31, 32, 2), Grid{4, true, 32}), ArgumentError);
  EXPECT_THROW(search_clip(weight, gram, Grid{4, true, 32}, {0, 0.5}), ArgumentError);
  EXPECT_THROW(search_clip(weight, gram, Grid{4, true, 32}, {20, 1.5}), ArgumentError);
  EXPECT_THROW(search_clip(weight, gram, Grid{4, true, 32}, {20, 0.01}), ArgumentError);
}

}  // namespace
}  // namespace metal_marlin

#include "quantize/lanes.h"

#include <gtest/gtest.h>
#include <hwy/targets.h>

#include <array>

#include "quantize/reference.h"

namespace metal_marlin {
namespace {

constexpr double kSumError = 1e-5;    // of float32 sums of some hundred terms, relative to the sum of magnitudes
constexpr double kErrorError = 1e-6;  // of a rounding error itself: what is left of two values near 3

// Every instruction set that this machine has and the library was compiled for.
class Lanes : public ::testing::TestWithParam<int64_t> {
 protected:
  void SetUp() override { choose(GetParam()); }
  void TearDown() override { choose(0); }
  static void choose(int64_t targets) {
    hwy::SetSupportedTargetsForTest(targets);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
  }
};

std::vector<int64_t> machine_targets() {
  std::vector<int64_t> targets;
  const int64_t supported = hwy::SupportedTargets() & HWY_TARGETS;
  for (int bit = 0; bit < 63; ++bit) {
    if ((supported >> bit & 1) != 0) targets.push_back(int64_t{1} << bit);
  }
  return targets;
}

TEST_P(Lanes, FindTheFirstBadValue) {
  for (const int64_t count : {0, 1, 5, 16, 67}) {
    std::vector<float> values(static_cast<size_t>(count), 1e38f);
    EXPECT_EQ(first_not_finite(values.data(), count), -1);
    for (int64_t at = 0; at < count; ++at) {
      values[static_cast<size_t>(at)] =
          at % 2 == 0 ? std::numeric_limits<float>::quiet_NaN() : -std::numeric_limits<float>::infinity();
      EXPECT_EQ(first_not_finite(values.data(), count), at);
      values[static_cast<size_t>(at)] = 0;
    }
  }
}

TEST_P(Lanes, MinMax) {
  for (const int64_t count : {1, 2, 15, 16, 17, 64, 77}) {
    const Matrix m = reference::normal_matrix(1, count, static_cast<uint64_t>(count));
    float low = 0;
    float high = 0;
    min_max(m.data(), count, &low, &high);
    EXPECT_EQ(low, *std::min_element(m.data(), m.data() + count));
    EXPECT_EQ(high, *std::max_element(m.data(), m.data() + count));
  }
}

TEST_P(Lanes, RoundingEqualsScalarBitForBit) {
  for (const int64_t count : {1, 3, 16, 31, 64, 70}) {
    Matrix w = reference::normal_matrix(1, count, 3);
    for (int64_t k = 0; k < count; k += 3) w(0, k) = 0.5f * static_cast<float>(k - 6) * 0.25f;  // ties
    std::vector<uint8_t> codes(static_cast<size_t>(count), 99);
    round_span(w.data(), count, 0.25f, 7, 0, 15, codes.data());
    for (int64_t k = 0; k < count; ++k) {
      EXPECT_EQ(codes[static_cast<size_t>(k)], std::clamp(std::nearbyint(w(0, k) / 0.25f) + 7.0f, 0.0f, 15.0f)) << k;
    }
    round_span(w.data(), count, 0.25f, 0, -1.5f, 7, codes.data());
    for (int64_t k = 0; k < count; ++k) {
      EXPECT_EQ(codes[static_cast<size_t>(k)], std::clamp(std::nearbyint((w(0, k) + 1.5f) / 0.25f), 0.0f, 7.0f)) << k;
    }
  }
}

TEST_P(Lanes, RoundingErrors) {
  for (const int64_t count : {1, 17, 64, 70}) {
    const Matrix w = reference::normal_matrix(3, count, 4);
    std::vector<float> error(static_cast<size_t>(count));
    round_error_span(w.data(), w.row(1).data(), w.row(2).data(), count, 0.3f, 6, 0, 15, error.data());
    for (int64_t k = 0; k < count; ++k) {
      const double code = std::clamp(std::nearbyint(w(0, k) / 0.3f) + 6.0f, 0.0f, 15.0f);
      EXPECT_NEAR(error[static_cast<size_t>(k)], (code - 6) * 0.3f * w(2, k) - w(1, k), 2e-6);
    }
    round_error_span(w.data(), w.row(1).data(), w.row(2).data(), count, 0.3f, 0, -1.25f, 15, error.data());
    for (int64_t k = 0; k < count; ++k) {
      const double code = std::clamp(std::nearbyint((w(0, k) + 1.25f) / 0.3f), 0.0f, 15.0f);
      EXPECT_NEAR(error[static_cast<size_t>(k)], (code * 0.3f - 1.25) * w(2, k) - w(1, k), 2e-6);
    }
  }
}

TEST_P(Lanes, QuadraticLosses) {
  for (const int64_t length : {1, 4, 30, 64, 128}) {
    const int64_t padded = (length + 3) / 4 * 4;
    Matrix w(padded, kLaneRows);
    const Matrix values = reference::normal_matrix(length, kLaneRows, 5);
    std::copy(values.values().begin(), values.values().end(), w.values().begin());
    const Matrix gram = reference::gram_of(reference::activations(2 * length, length, 6));
    std::vector<float> packed(static_cast<size_t>(quadratic_floats(length)));
    pack_quadratic(gram.data(), length, length, packed.data());
    std::vector<float> scratch(static_cast<size_t>(padded * kLaneRows));
    std::array<float, kLaneRows> scale, zero, loss, plain;
    for (int64_t r = 0; r < kLaneRows; ++r) {
      scale[static_cast<size_t>(r)] = 0.2f + 0.003f * static_cast<float>(r);
      zero[static_cast<size_t>(r)] = static_cast<float>(r % 16);
    }
    quadratic_losses(w.data(), packed.data(), padded, scale.data(), zero.data(), 15, scratch.data(), loss.data());
    quadratic_losses(w.data(), nullptr, padded, scale.data(), zero.data(), 15, scratch.data(), plain.data());
    for (int64_t r = 0; r < kLaneRows; ++r) {
      const auto at = static_cast<size_t>(r);
      std::vector<float> row;
      for (int64_t k = 0; k < length; ++k) row.push_back(w(k, r));
      const std::vector<double> e =
          reference::rounding_errors(row.data(), length, scale[at], static_cast<int>(zero[at]), 15);
      double sum = 0;
      double plain_error = 0;
      double allowed = 0;
      for (int64_t k = 0; k < length; ++k) {
        const double value = std::fabs(e[static_cast<size_t>(k)]);
        sum += value * value;
        plain_error += kSumError * value * value + kErrorError * value;
        for (int64_t l = 0; l < length; ++l) {
          allowed += (kSumError * value + kErrorError) * std::fabs(gram(k, l) * e[static_cast<size_t>(l)]);
        }
      }
      EXPECT_NEAR(loss[at], reference::quadratic(e, gram, 0), allowed) << length << " row " << r;
      EXPECT_NEAR(plain[at], sum, plain_error);
    }
  }
}

TEST_P(Lanes, GptqBlock) {
  for (const int64_t count : {1, 7, 64}) {
    const Matrix w = reference::normal_matrix(count, kLaneRows, 7);
    Matrix u = reference::normal_matrix(count, count, 8, 0.1);
    for (int64_t j = 0; j < count; ++j) {
      for (int64_t i = j; i < count; ++i) u(j, i) = std::numeric_limits<float>::quiet_NaN();  // never read
    }
    const std::vector<float> pivot(static_cast<size_t>(count), 0.8f);
    const std::vector<float> scale(kLaneRows, 0.3f);
    const std::vector<float> zero(kLaneRows, 8.0f);
    const std::vector<const float*> scales(static_cast<size_t>(count), scale.data());
    const std::vector<const float*> zeros(static_cast<size_t>(count), zero.data());
    std::vector<uint8_t> codes(static_cast<size_t>(count * kLaneRows));
    Matrix err(count, kLaneRows);
    gptq_block(w.data(), count, u.data(), pivot.data(), scales.data(), zeros.data(), 15, codes.data(), err.data());
    for (int64_t r = 0; r < kLaneRows; ++r) {
      for (int64_t j = 0; j < count; ++j) {
        double x = w(j, r);
        for (int64_t i = 0; i < j; ++i) x -= static_cast<double>(err(i, r)) * u(j, i);
        const int code = codes[static_cast<size_t>(j * kLaneRows + r)];
        // Within half a step of what the code says, or beyond the grid on the code's side.
        const double steps = x / 0.3 + 8;
        EXPECT_LE(std::fabs(std::clamp(steps, 0.0, 15.0) - code), 0.5 + 1e-4);
        EXPECT_NEAR(err(j, r), (x - (code - 8) * static_cast<double>(0.3f)) * 0.8, 2e-5);
      }
    }
  }
}

LevelSteps uneven_levels() {
  LevelSteps steps{};
  for (int i = 0; i < 16; ++i) steps.levels[i] = static_cast<float>(0.1 * (i - 7) * (20 + std::abs(i - 7)));
  for (int i = 0; i < 15; ++i) steps.middles[i] = (steps.levels[i] + steps.levels[i + 1]) / 2;
  return steps;
}
// Whether `place` is the level nearest to x, but for ties within float32.
bool is_nearest(const LevelSteps& steps, int place, double x) {
  const double distance = std::fabs(steps.levels[place] - x);
  return std::all_of(std::begin(steps.levels), std::end(steps.levels),
                     [&](float level) { return distance <= std::fabs(level - x) + 1e-3; });
}

TEST_P(Lanes, GptqBlockOfLevels) {
  const LevelSteps steps = uneven_levels();
  for (const int64_t count : {1, 7, 64}) {
    const Matrix w = reference::normal_matrix(count, kLaneRows, 7);
    Matrix u = reference::normal_matrix(count, count, 8, 0.1);
    for (int64_t j = 0; j < count; ++j) {
      for (int64_t i = j; i < count; ++i) u(j, i) = std::numeric_limits<float>::quiet_NaN();  // never read
    }
    const std::vector<float> pivot(static_cast<size_t>(count), 0.8f);
    std::vector<float> scale(kLaneRows, 0.15f);
    for (size_t r = 0; r < scale.size(); r += 3) scale[r] = -0.2f;
    const std::vector<const float*> scales(static_cast<size_t>(count), scale.data());
    std::vector<uint8_t> codes(static_cast<size_t>(count * kLaneRows));
    Matrix err(count, kLaneRows);
    gptq_block_levels(w.data(), count, u.data(), pivot.data(), scales.data(), steps, codes.data(), err.data());
    for (int64_t r = 0; r < kLaneRows; ++r) {
      const double s = scale[static_cast<size_t>(r)];
      for (int64_t j = 0; j < count; ++j) {
        double x = w(j, r);
        for (int64_t i = 0; i < j; ++i) x -= static_cast<double>(err(i, r)) * u(j, i);
        const int code = codes[static_cast<size_t>(j * kLaneRows + r)];
        EXPECT_TRUE(is_nearest(steps, code, x / s)) << code << " for " << x / s;
        EXPECT_NEAR(err(j, r), (x - steps.levels[code] * s) * 0.8, 2e-5);
      }
    }
  }
}

TEST_P(Lanes, DescentOverLevels) {
  const LevelSteps steps = uneven_levels();
  for (const int64_t count : {1, 7, 64}) {
    const Matrix residual = reference::normal_matrix(count, kLaneRows, 3);
    Matrix h = reference::normal_matrix(count, count, 4, 0.1);
    for (int64_t j = 0; j < count; ++j) {
      for (int64_t i = j; i < count; ++i) h(j, i) = std::numeric_limits<float>::quiet_NaN();  // never read
    }
    const std::vector<float> inverse(static_cast<size_t>(count), 0.7f);
    const std::vector<float> scale(kLaneRows, 0.2f);
    const std::vector<const float*> scales(static_cast<size_t>(count), scale.data());
    Random random(5);
    Matrix before(count, kLaneRows);
    for (float& level : before.values()) level = steps.levels[random.below(16)];
    Matrix after = before.clone();
    Matrix step(count, kLaneRows);
    descend_block_levels(residual.data(), count, h.data(), inverse.data(), scales.data(), steps, after.data(),
                         step.data());
    for (int64_t r = 0; r < kLaneRows; ++r) {
      for (int64_t j = 0; j < count; ++j) {
        double x = residual(j, r);
        for (int64_t i = 0; i < j; ++i) x -= static_cast<double>(step(i, r)) * h(j, i);
        const auto* at = std::find(std::begin(steps.levels), std::end(steps.levels), after(j, r));
        ASSERT_NE(at, std::end(steps.levels));
        EXPECT_TRUE(is_nearest(steps, static_cast<int>(at - steps.levels), before(j, r) + x * 0.7 / 0.2));
        EXPECT_NEAR(step(j, r), (after(j, r) - before(j, r)) * 0.2, 1e-5);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Targets, Lanes, ::testing::ValuesIn(machine_targets()),
                         [](const auto& target) { return std::string(hwy::TargetName(target.param)); });

}  // namespace
}  // namespace metal_marlin

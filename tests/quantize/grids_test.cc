// One search and one rounding for every grid: the grids of this project's formats, and those of formats that it does
// not write, each against its own formula in float64.
#include <gtest/gtest.h>
#include <metal_marlin/error.h>

#include <cmath>

#include "quantize/clip.h"
#include "quantize/errors.h"
#include "quantize/group_range.h"
#include "quantize/reference.h"
#include "quantize/rounding/gptq.h"
#include "quantize/rounding/refine.h"
#include "quantize/rounding/rtn.h"

namespace metal_marlin {
namespace {

using reference::activations;
using reference::gram_of;
using reference::normal_matrix;

// The search sums in float32 and forms w / S as w (1 / S).
constexpr double kNearTie = 2e-4;
// At 8 bits the quotients are larger, and near-ties that go the other way are many.
constexpr double kFineNearTie = 1.05;

struct Named {
  const char* name;
  Grid grid;
  bool signed_scales = false;
};
void PrintTo(const Named& n, std::ostream* out) {
  *out << n.name;
}

class Grids : public testing::TestWithParam<Named> {
 protected:
  static constexpr int64_t kRows = 67;  // more than a tile
  static constexpr int64_t kColumns = 160;
  Grids() : gram_(gram_of(activations(2 * kColumns, kColumns, 2))), weight_(normal_matrix(kRows, kColumns, 1, 0.05)) {
    // Weights off the middle, for which a zero among the codes does not suffice.
    for (int64_t k = 0; k < kColumns; ++k) weight_(2, k) += 0.3f;
  }
  const Grid& grid() const { return GetParam().grid; }
  GroupRanges ranges(RangeChoice method) const {
    RangeOptions options;
    options.method = method;
    options.signed_scales = GetParam().signed_scales && method != RangeChoice::kAbsmax;
    return group_ranges(weight_, grid(), options, &gram_);
  }
  double scale(const GroupRanges& r, size_t at) const { return decode_scale(r.scales[at], grid().scale_type); }
  // The value that a code stands for, by the formulas of core/values.h.
  double value(int code, double scale, int zero, double minimum) const {
    if (grid().minimum) return code * scale + minimum;
    return (code - (grid().symmetric ? 1 << (grid().bits - 1) : zero)) * scale;
  }
  Matrix gram_;
  Matrix weight_;
};

TEST_P(Grids, CodesAreTheNearestOfTheGrid) {
  for (const RangeChoice method :
       {RangeChoice::kAbsmax, RangeChoice::kMse, RangeChoice::kGram, RangeChoice::kDiagonal}) {
    const GroupRanges r = ranges(method);
    const QuantizedTensor q = quantize_rtn(weight_, r, grid());
    EXPECT_NO_THROW(validate(q, "q"));
    EXPECT_EQ(q.minima.empty(), !grid().minimum);
    EXPECT_EQ(q.scale_type, grid().scale_type);
    const Matrix back = dequantize(q);
    for (int64_t row = 0; row < kRows; ++row) {
      for (int64_t k = 0; k < kColumns; ++k) {
        const auto at = static_cast<size_t>(row * r.groups() + k / r.group_size);
        const double s = scale(r, at);
        const double m = r.minimum(at, grid());
        const int zero = r.zeros[at];
        const int code = q.codes[static_cast<size_t>(row * kColumns + k)];
        const double w = weight_(row, k);
        ASSERT_NEAR(back(row, k), value(code, s, zero, m), 1e-6 * (std::fabs(m) + std::fabs(w) + std::fabs(s)));
        // No other code is nearer.
        double nearest = std::fabs(value(code, s, zero, m) - w);
        for (const int other : {code - 1, code + 1}) {
          if (other < 0 || other >= grid().levels()) continue;
          ASSERT_LE(nearest, std::fabs(value(other, s, zero, m) - w) + 1e-5 * std::fabs(s)) << row << "," << k;
        }
      }
    }
  }
}

// Every candidate of the documented list, rounded in float64: none is better than the one that was chosen.
TEST_P(Grids, SearchEqualsBruteForce) {
  const GroupRanges found = ranges(RangeChoice::kGram);
  const int top = grid().levels() - 1;
  const double half = grid().levels() / 2.0;
  const ScaleRange storable = scale_range(grid().scale_type);
  const auto store = [&](double v) {
    return static_cast<double>(decode_scale(encode_scale(static_cast<float>(v), grid().scale_type), grid().scale_type));
  };
  for (int64_t row = 0; row < kRows; row += 11) {
    for (int64_t g = 0; g < found.groups(); ++g) {
      const int64_t start = g * found.group_size;
      const int64_t count = std::min(found.group_size, kColumns - start);
      const float* w = weight_.row(row).data() + start;
      double low = w[0];
      double high = w[0];
      for (int64_t k = 0; k < count; ++k) {
        low = std::min(low, static_cast<double>(w[k]));
        high = std::max(high, static_cast<double>(w[k]));
      }
      double magnitude = 0;
      const auto loss_of = [&](double s, int zero, double m) {
        std::vector<double> e;
        magnitude = 0;
        for (int64_t k = 0; k < count; ++k) {
          const double z = grid().minimum ? 0 : zero;
          const double code = std::clamp(std::nearbyint((w[k] - m) / s) + z, 0.0, static_cast<double>(top));
          e.push_back(value(static_cast<int>(code), s, zero, m) - w[k]);
          magnitude += e.back() * e.back() * gram_(start + k, start + k);
        }
        return reference::quadratic(e, gram_, start);
      };
      double best = std::numeric_limits<double>::infinity();
      const auto offer = [&](double s, int zero, double m) { best = std::min(best, loss_of(s, zero, m)); };
      const auto bounded = [&](double s) {
        return store(std::clamp(s, static_cast<double>(storable.least), static_cast<double>(storable.largest)));
      };
      const double most = std::max(high, -low);
      if (grid().symmetric) {
        for (int i = 0; i < 25; ++i) offer(bounded(most * (0.5 + 0.025 * i) / (half - 0.5)), static_cast<int>(half), 0);
        for (int i = 0; GetParam().signed_scales && i < 25; ++i) {
          offer((high > -low ? -1 : 1) * bounded(most * (0.5 + 0.025 * i) / half), static_cast<int>(half), 0);
        }
      } else {
        if (!grid().minimum) {
          low = std::min(low, 0.0);
          high = std::max(high, 0.0);
        }
        for (int i = 0; i < 18; ++i) {
          const double f = 0.6 + 0.025 * i;
          const double s = bounded((high - low) * f / top);
          for (const int shift : {-1, 0, 1}) {
            if (grid().minimum) {
              offer(s, 0, store((high + low) / 2 - (high - low) * f / 2 - shift * s / 2));
            } else {
              offer(s,
                    static_cast<int>(std::clamp(std::nearbyint(-low * f / s) + shift, 0.0, static_cast<double>(top))),
                    0);
            }
          }
        }
      }
      const auto at = static_cast<size_t>(row * found.groups() + g);
      const double loss = loss_of(scale(found, at), found.zeros[at], found.minimum(at, grid()));
      EXPECT_LE(loss, best * (grid().bits == 8 ? kFineNearTie : 1) + kNearTie * magnitude)
          << "row " << row << " group " << g;
    }
  }
}

TEST_P(Grids, EachStageLowersTheError) {
  const auto error = [&](const QuantizedTensor& q) { return linear_errors(weight_, q, &gram_).output_error; };
  const double absmax = error(quantize_rtn(weight_, ranges(RangeChoice::kAbsmax), grid()));
  const GroupRanges searched = ranges(RangeChoice::kGram);
  const double rtn = error(quantize_rtn(weight_, searched, grid()));
  QuantizedTensor q = quantize_gptq(weight_, make_gptq_factor(gram_), searched, grid());
  EXPECT_NO_THROW(validate(q, "q"));
  EXPECT_EQ(q.minima, searched.minima);
  const double gptq = error(q);
  refine(weight_, gram_, q);
  EXPECT_NO_THROW(validate(q, "q"));
  EXPECT_EQ(q.minima, searched.minima);
  EXPECT_LE(rtn, absmax * 1.001);
  EXPECT_LT(gptq, 0.9 * rtn);
  EXPECT_LE(error(q), gptq);
}

// Without correlations between inputs nothing can be made good: the codes are those of rounding.
TEST_P(Grids, GptqWithADiagonalIsRounding) {
  Matrix diagonal(kColumns, kColumns);
  for (int64_t k = 0; k < kColumns; ++k) diagonal(k, k) = static_cast<float>(1 + k % 7);
  const GroupRanges r = ranges(RangeChoice::kMse);
  EXPECT_EQ(quantize_gptq(weight_, make_gptq_factor(diagonal), r, grid()).codes,
            quantize_rtn(weight_, r, grid()).codes);
}

TEST_P(Grids, ErrorsAreThoseOfTheDequantizedWeights) {
  const QuantizedTensor q = quantize_rtn(weight_, ranges(RangeChoice::kGram), grid());
  const Matrix back = dequantize(q);
  double error = 0;
  double size = 0;
  int64_t ends = 0;
  for (int64_t i = 0; i < weight_.size(); ++i) {
    const double w = weight_.data()[i];
    error += (back.data()[i] - w) * (back.data()[i] - w);
    size += w * w;
    ends += q.codes[static_cast<size_t>(i)] == 0 || q.codes[static_cast<size_t>(i)] == grid().levels() - 1 ? 1 : 0;
  }
  const LinearErrors errors = linear_errors(weight_, q, nullptr);
  EXPECT_NEAR(errors.weight_error, std::sqrt(error / size), 1e-6);
  EXPECT_NEAR(errors.saturated_share, static_cast<double>(ends) / static_cast<double>(weight_.size()), 1e-12);
  EXPECT_LE(errors.clipped_share, errors.saturated_share);
}

INSTANTIATE_TEST_SUITE_P(All, Grids,
                         testing::Values(Named{"sym4", {4, true, 64}}, Named{"sym3", {3, true, 32}},
                                         Named{"asym3", {3, false, 64}}, Named{"asym8", {8, false, 64}},
                                         Named{"int8_per_channel", {8, true, -1}},
                                         Named{"gguf_q4_0", {4, true, 32}, true},
                                         Named{"gguf_q4_1", {4, false, 32, true}},
                                         Named{"mlx_affine", {4, false, 64, true, ScaleType::kBF16}},
                                         Named{"bf16_sym", {4, true, 64, false, ScaleType::kBF16}, true},
                                         Named{"bf16_asym", {4, false, 64, false, ScaleType::kBF16}}),
                         [](const testing::TestParamInfo<Named>& p) { return std::string(p.param.name); });

// Q4_1 as its definition says: d = (max - min) / 15, m = min.
TEST(GridWithMinimum, AbsmaxIsTheRangeOfTheGroup) {
  const Matrix weight = normal_matrix(3, 64, 4);
  const GroupRanges r = group_ranges(weight, {4, false, 32, true});
  for (int64_t row = 0; row < 3; ++row) {
    for (int64_t g = 0; g < 2; ++g) {
      const auto [low, high] =
          std::minmax_element(weight.row(row).begin() + g * 32, weight.row(row).begin() + (g + 1) * 32);
      const auto at = static_cast<size_t>(row * 2 + g);
      EXPECT_EQ(r.scales[at], f32_to_f16((*high - *low) / 15.0f));
      EXPECT_EQ(r.minima[at], f32_to_f16(*low));
      EXPECT_EQ(r.zeros[at], 0);
    }
  }
}

// A constant added to a group moves its minimum and nothing else.
TEST(GridWithMinimum, IsFreeOfWhereTheGroupLies) {
  Random random(3);
  Matrix weight(2, 64);
  for (float& v : weight.values()) v = static_cast<float>(random.below(512)) / 512.0f;  // sums below are exact
  Matrix moved = weight.clone();
  for (int64_t k = 32; k < 64; ++k) moved(1, k) -= 4.0f;
  const Grid grid{4, false, 32, true};
  const GroupRanges a = group_ranges(weight, grid);
  const GroupRanges b = group_ranges(moved, grid);
  EXPECT_EQ(a.scales, b.scales);
  EXPECT_EQ(quantize_rtn(weight, a, grid).codes, quantize_rtn(moved, b, grid).codes);
  EXPECT_EQ(decode_scale(b.minima[3], ScaleType::kF16), decode_scale(a.minima[3], ScaleType::kF16) - 4.0f);
}

TEST(GridWithMinimum, RefusesWhatDoesNotFit) {
  const Matrix weight = normal_matrix(2, 64, 4);
  EXPECT_THROW(group_ranges(weight, {4, true, 32, true}), ArgumentError);
  const Grid grid{4, false, 32, true};
  GroupRanges r = group_ranges(weight, grid);
  EXPECT_THROW(quantize_rtn(weight, r, {4, false, 32}), ArgumentError);
  r.zeros[1] = 1;
  EXPECT_THROW(quantize_rtn(weight, r, grid), ArgumentError);
  r = group_ranges(weight, grid);
  r.minima[1] = 0x7c00;
  EXPECT_THROW(quantize_rtn(weight, r, grid), ArgumentError);
  r.minima.pop_back();
  EXPECT_THROW(quantize_rtn(weight, r, grid), ArgumentError);
  EXPECT_THROW(quantize_rtn(weight, group_ranges(weight, {4, false, 32}), grid), ArgumentError);
}

TEST(ScaleTypes, RoundAndBound) {
  for (const ScaleType type : {ScaleType::kF16, ScaleType::kBF16}) {
    const ScaleRange range = scale_range(type);
    EXPECT_EQ(decode_scale(encode_scale(range.least, type), type), range.least);
    EXPECT_EQ(decode_scale(encode_scale(range.largest, type), type), range.largest);
    EXPECT_TRUE(std::isinf(decode_scale(encode_scale(std::nextafter(range.largest, INFINITY) * 1.01f, type), type)));
    // Weights far beyond and below the range of the type.
    Matrix weight(2, 32);
    for (int64_t k = 0; k < 32; ++k) {
      weight(0, k) = static_cast<float>(k % 2 == 0 ? 1 : -1) * 3e38f;
      weight(1, k) = static_cast<float>(k) * 1e-44f;
    }
    const GroupRanges r = group_ranges(weight, {4, true, 32, false, type});
    EXPECT_EQ(decode_scale(r.scales[1], type), range.least);
    EXPECT_EQ(r.counts.raised, 1);
    EXPECT_EQ(r.counts.clamped, type == ScaleType::kF16 ? 1 : 0);
    EXPECT_TRUE(std::isfinite(decode_scale(r.scales[0], type)));
  }
}

}  // namespace
}  // namespace metal_marlin

#include "quantize/group_range.h"

#include <fmt/format.h>
#include <metal_marlin/error.h>

#include "quantize/candidates.h"
#include "quantize/lanes.h"

namespace metal_marlin {
namespace {

// Factors on the group's extent that kMse and kGram try.
constexpr int kSymmetricFactors = 25;   // 0.5 .. 1.1
constexpr int kAsymmetricFactors = 18;  // 0.6 .. 1.025
constexpr int kShifts = 3;              // of the zero: -1, 0, 1
float symmetric_factor(int i) noexcept {
  return static_cast<float>(0.5 + 0.025 * i);
}
float asymmetric_factor(int i) noexcept {
  return static_cast<float>(0.6 + 0.025 * i);
}

}  // namespace

void validate(const Grid& grid) {
  if (grid.bits < 2 || grid.bits > 8) {
    throw ArgumentError(fmt::format("bits: expected 2 to 8, found {}", grid.bits));
  }
  if (grid.group_size != -1 && grid.group_size <= 0) {
    throw ArgumentError(
        fmt::format("group_size: expected a positive number or -1 (the whole row), found {}", grid.group_size));
  }
}

void require_finite(const Matrix& matrix, const char* name) {
  const int64_t at = first_not_finite(matrix.data(), matrix.size());
  if (at < 0) return;
  throw NumericError(fmt::format("{}: expected finite values, found {} at [{}, {}]; check the checkpoint", name,
                                 matrix.data()[at], at / matrix.cols(), at % matrix.cols()));
}

GroupRanges group_ranges(const Matrix& weight, const Grid& grid, const RangeOptions& options, const Matrix* gram) {
  const bool by_gram = options.method == RangeMethod::kGram;
  if (by_gram && gram == nullptr) {
    throw ArgumentError(
        "gram: ranges by the Gram matrix need one; collect it during calibration, or use absmax or mse");
  }
  if (!(options.divisor >= 0.0f)) {
    throw ArgumentError(fmt::format("divisor: expected 0 or a positive number, found {}", options.divisor));
  }
  if (!by_gram) gram = nullptr;
  require_arguments(weight, grid, gram);
  const int bits = grid.bits;
  const float half = static_cast<float>(grid.levels()) / 2;
  const bool searched = options.method != RangeMethod::kAbsmax;
  if (grid.symmetric) {
    if (searched) {
      const auto candidate = [=](int i, Extent extent) {
        return symmetric_range(extent.magnitude() * symmetric_factor(i), half - 0.5f, bits);
      };
      return search_candidates(weight, grid, gram, kSymmetricFactors, candidate).ranges;
    }
    const float divisor = options.divisor > 0 ? options.divisor : half - 1.0f;
    const auto absmax = [=](int, Extent extent) { return symmetric_range(extent.magnitude(), divisor, bits); };
    return search_candidates(weight, grid, nullptr, 1, absmax).ranges;
  }
  if (searched) {
    const auto candidate = [=](int i, Extent extent) {
      const float factor = asymmetric_factor(i / kShifts);
      const auto [min, max] = extent.with_zero();
      return asymmetric_range((max - min) * factor, min * factor, i % kShifts - 1, bits);
    };
    return search_candidates(weight, grid, gram, kAsymmetricFactors * kShifts, candidate).ranges;
  }
  const auto min_max = [=](int, Extent extent) {
    const auto [min, max] = extent.with_zero();
    return asymmetric_range(max - min, min, 0, bits);
  };
  return search_candidates(weight, grid, nullptr, 1, min_max).ranges;
}

}  // namespace metal_marlin

// A segment: the elements of a block that share a scale (and a minimum). Its columns are rounded as a problem of their
// own, with error feedback among themselves, for kLaneRows rows at once.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "formats/blocks/block_fields.h"
#include "quantize/lanes.h"
#include "quantize/rounding/damped_gram.h"

namespace metal_marlin {

inline constexpr int64_t kLargestSegment = 32;
// Stands for a scale of 0 where values are divided by it: its products vanish beside every weight.
inline constexpr float kTinyScale = 1e-30f;
inline float divisor(float scale) noexcept {
  return scale == 0.0f ? kTinyScale : scale;
}

// What the values of a form are made of: value = scale (number - zero) + minimum, where the number is the code, or with
// levels the level of the code.
struct BlockNumbers {
  explicit BlockNumbers(const BlockForm& form);

  float number(uint8_t code) const noexcept { return levels != nullptr ? levels->levels[code] : code; }
  uint8_t code(float number) const noexcept;

  float zero;
  float top;                 // the largest code
  float longer;              // the number - zero of largest magnitude on either side
  float shorter;             //   (-8 and 7.5: half a step may be cut off at the shorter side of a grid of codes)
  const LevelSteps* levels;  // null: the numbers are the codes
};

// H_gg^-1 of a segment of `width` columns.
struct SegmentFactor {
  std::vector<int32_t> order;        // the column that is rounded j-th
  std::vector<float> u;              // as gptq_block() wants it: [j * width + i], i < j
  std::vector<float> inverse_pivot;  // 1 / U_jj
  std::vector<float> inverse;        // H_gg^-1 in the natural order; empty without feedback

  bool feedback() const noexcept { return !inverse.empty(); }
};
// Of all segments of an input. Without feedback H_gg counts as its diagonal, so that each weight is rounded to nearest.
std::vector<SegmentFactor> make_segment_factors(const DampedGram& h, int64_t width, bool feedback);

// out = H in, both [width][kLaneRows], for columns first .. first + width - 1 of H, or for its diagonal alone.
void times_h(const DampedGram& h, int64_t first, int64_t width, bool diagonal, const float* in, float* out) noexcept;

// The normal equations of a scale and a minimum for fixed codes, of kLaneRows rows. A change of the scale by ds and of
// the minimum by dm changes the loss by ss ds^2 + 2 sm ds dm + mm dm^2 - 2 (s ds + m dm).
struct NormalEquations {
  using Lanes = std::array<float, kLaneRows>;

  // All [width][kLaneRows]: what one unit of the scale changes in the values, and H times that; the same of the
  // minimum, or null; and the residual R = (W - Wq) H.
  NormalEquations(int64_t width, const float* by_scale, const float* h_by_scale, const float* by_minimum,
                  const float* h_by_minimum, const float* residual) noexcept;
  // The best change of the scale where the minimum follows; 0 where there is none.
  float scale_change(int64_t row) const noexcept;
  // The best change of the minimum after that of the scale.
  float minimum_change(int64_t row, float scale_change) const noexcept;
  float loss_change(int64_t row, float ds, float dm) const noexcept;

 private:
  Lanes ss_{};
  Lanes sm_{};
  Lanes mm_{};
  Lanes s_{};
  Lanes m_{};
};

// Rounds kLaneRows segments.
class SegmentTrial {
 public:
  SegmentTrial(const BlockForm& form, const BlockNumbers& numbers);
  SegmentTrial(const SegmentTrial&) = delete;  // it points to itself
  SegmentTrial& operator=(const SegmentTrial&) = delete;

  // target [width][kLaneRows]: the values to be rounded. The factor must outlive the rounds.
  void start(const SegmentFactor& factor, const float* target) noexcept;
  // Rounds to scale (number - zero) + minimum, one scale and minimum per row. loss[row] = e H_gg e^T. minima: not read
  // where the form has none.
  void round(const float* scales, const float* minima, float* loss) noexcept;
  // Keeps the codes of the last round for the rows with take[row] != 0.
  void keep(const uint8_t* take) noexcept;
  // The numbers of the codes kept, [width][kLaneRows] in the natural order, of the rows with take[row] != 0.
  void kept_numbers(const uint8_t* take, float* numbers) const noexcept;

 private:
  static constexpr size_t kSize = static_cast<size_t>(kLargestSegment * kLaneRows);

  const BlockNumbers& numbers_;
  int64_t width_;
  bool minima_;
  const SegmentFactor* factor_ = nullptr;
  std::array<float, kLaneRows> zeros_;
  std::array<float, kLaneRows> divisors_;
  std::array<float, kSize> target_;
  std::array<float, kSize> shifted_;
  std::array<float, kSize> errors_;
  std::array<uint8_t, kSize> codes_;
  std::array<uint8_t, kSize> kept_{};
  std::array<const float*, kLargestSegment> scale_of_;
  std::array<const float*, kLargestSegment> zero_of_;
};

}  // namespace metal_marlin

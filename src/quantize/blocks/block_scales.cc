#include "quantize/blocks/block_scales.h"

#include <algorithm>
#include <cmath>

#include "core/half.h"
#include "core/threads.h"

namespace metal_marlin {
namespace {

constexpr float kLargestF16 = 65504.0f;

// d and the integers of a block, for which d integer is nearest to the wanted numbers.
struct Multiples {
  float d = 0;
  std::array<int, 16> integers{};
};
// weights: how much an error counts. Tries d = largest / L for L at and below the end of the range, down to 0.7 of it.
Multiples nearest_multiples(const float* wanted, const float* weights, int64_t count, int least, int most) noexcept {
  float largest = 0;  // with its sign
  for (int64_t i = 0; i < count; ++i) {
    if (std::fabs(wanted[i]) > std::fabs(largest)) largest = wanted[i];
  }
  Multiples best;
  double best_loss = -1;
  const auto attempt = [&](int place) {
    Multiples now;
    now.d = nearest_f16(largest / static_cast<float>(place));
    if (now.d == 0.0f) return;
    double loss = 0;
    for (int64_t i = 0; i < count; ++i) {
      const float integer =
          std::clamp(std::nearbyint(wanted[i] / now.d), static_cast<float>(least), static_cast<float>(most));
      now.integers[static_cast<size_t>(i)] = static_cast<int>(integer);
      const double e = wanted[i] - now.d * integer;
      loss += weights[i] * e * e;
    }
    if (best_loss >= 0 && !(loss < best_loss)) return;
    best_loss = loss;
    best = now;
  };
  const int step = std::max(1, most / 32);
  for (int place = most; place >= most * 7 / 10; place -= step) attempt(place);
  for (int place = least; place < 0 && place <= least * 7 / 10; place += step) attempt(place);
  return best;
}

// The candidates of a segment's scale and minimum before they are stored.
class Candidates {
 public:
  Candidates(const BlockForm& form, const BlockNumbers& numbers) : form_(form), numbers_(numbers) {}

  // target [segment][kLaneRows]
  void measure(const float* target) noexcept {
    for (size_t r = 0; r < kLaneRows; ++r) low_[r] = high_[r] = target[r];
    for (int64_t j = 1; j < form_.segment; ++j) {
      for (size_t r = 0; r < kLaneRows; ++r) {
        const float w = target[static_cast<size_t>(j * kLaneRows) + r];
        low_[r] = w < low_[r] ? w : low_[r];
        high_[r] = w > high_[r] ? w : high_[r];
      }
    }
    if (!form_.minima || !form_.scales()) return;
    // dmin times a number >= 0 is subtracted, and dmin is not negative here.
    for (size_t r = 0; r < kLaneRows; ++r) {
      low_[r] = low_[r] < 0 ? low_[r] : 0.0f;
      high_[r] = high_[r] > 0 ? high_[r] : 0.0f;
    }
  }
  int count() const noexcept { return form_.minima ? kShrinks * kShifts : 2 * kFactors; }
  void make(int index, float* scales, float* minima) const noexcept {
    for (size_t r = 0; r < kLaneRows; ++r) {
      if (form_.minima) {
        const float factor = 1.0f - 0.03f * static_cast<float>(index / kShifts - 1);
        const float range = high_[r] - low_[r];
        scales[r] = range * factor / numbers_.top;
        const float low =
            0.5f * (high_[r] + low_[r] - range * factor) - static_cast<float>(index % kShifts - 1) * scales[r] / 3;
        minima[r] = form_.scales() ? std::min(low, 0.0f) : low;
      } else {
        const float factor = 1.0f - 0.025f * static_cast<float>(index / 2 - 4);
        const float magnitude = std::max(high_[r], -low_[r]);
        // The longer side of the numbers is that below zero: a negative scale turns it upwards.
        const bool up = high_[r] > -low_[r];
        const bool longer = index % 2 == 0;
        const float scale = magnitude * factor / (longer ? numbers_.longer : numbers_.shorter);
        scales[r] = up == longer ? -scale : scale;
      }
    }
  }

 private:
  static constexpr int kShrinks = 15;  // 1.03, 1, .. 0.61 of the range: what is on a grid already finds it again
  static constexpr int kShifts = 3;    // of the minimum, by a third of a step
  static constexpr int kFactors = 25;  // 1.1, 1.075 .. 0.5 of the largest weight

  const BlockForm& form_;
  const BlockNumbers& numbers_;
  std::array<float, kLaneRows> low_;
  std::array<float, kLaneRows> high_;
};

}  // namespace

float nearest_f16(float value) noexcept {
  return round_to_f16(std::clamp(value, -kLargestF16, kLargestF16));
}

float block_scale(const BlockForm& form, const BlockFields& fields, int64_t segment) noexcept {
  const float d = f16_to_f32(fields.d[static_cast<size_t>(segment / form.segments())]);
  return form.scales() ? d * static_cast<float>(fields.scales[static_cast<size_t>(segment)]) : d;
}

float block_minimum(const BlockForm& form, const BlockFields& fields, int64_t segment) noexcept {
  if (!form.minima) return 0;
  const float m = f16_to_f32(fields.m[static_cast<size_t>(segment / form.segments())]);
  return form.scales() ? -(m * static_cast<float>(fields.minima[static_cast<size_t>(segment)])) : m;
}

TileScales::TileScales(const BlockForm& form, const BlockFields& fields, int64_t columns, int64_t row, int64_t rows)
    : form_(form),
      blocks_(columns / form.block),
      segments_(columns / form.segment),
      row_(row),
      rows_(rows),
      d_(static_cast<size_t>(blocks_ * kLaneRows)),
      dmin_(d_.size()),
      integers_(static_cast<size_t>(segments_ * kLaneRows)),
      minimum_integers_(integers_.size()),
      scales_(integers_.size()),
      minima_(integers_.size()) {
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t b = 0; b < blocks_; ++b) {
      const auto from = static_cast<size_t>((row + r) * blocks_ + b);
      d_[at(b, r)] = f16_to_f32(fields.d[from]);
      if (form.minima) dmin_[at(b, r)] = f16_to_f32(fields.m[from]);
    }
    for (int64_t g = 0; g < segments_; ++g) {
      const int64_t from = (row + r) * segments_ + g;
      if (form.scales()) integers_[at(g, r)] = fields.scales[static_cast<size_t>(from)];
      if (form.scales() && form.minima) minimum_integers_[at(g, r)] = fields.minima[static_cast<size_t>(from)];
      scales_[at(g, r)] = block_scale(form, fields, from);
      minima_[at(g, r)] = block_minimum(form, fields, from);
    }
  }
}

Stored TileScales::nearest_scale(int64_t segment, int64_t r, float wanted) const noexcept {
  if (!form_.scales()) return {nearest_f16(wanted), 0};
  const float d = d_[at(segment / form_.segments(), r)];
  if (d == 0.0f) return {};
  const float integer = std::clamp(std::nearbyint(wanted / d), static_cast<float>(form_.least_scale),
                                   static_cast<float>(form_.largest_scale));
  return {d * integer, static_cast<int>(integer)};
}

Stored TileScales::nearest_minimum(int64_t segment, int64_t r, float wanted) const noexcept {
  if (!form_.minima) return {};
  if (!form_.scales()) return {nearest_f16(wanted), 0};
  const float dmin = dmin_[at(segment / form_.segments(), r)];
  if (dmin == 0.0f) return {};
  const float integer = std::clamp(std::nearbyint(-wanted / dmin), 0.0f, static_cast<float>(kLargestBlockMinimum));
  return {-(dmin * integer), static_cast<int>(integer)};
}

void TileScales::set(int64_t segment, int64_t r, const Stored& scale, const Stored& minimum) noexcept {
  scales_[at(segment, r)] = scale.value;
  minima_[at(segment, r)] = minimum.value;
  integers_[at(segment, r)] = scale.integer;
  minimum_integers_[at(segment, r)] = minimum.integer;
  if (form_.scales()) return;
  d_[at(segment, r)] = scale.value;
  dmin_[at(segment, r)] = minimum.value;
}

void TileScales::set_block(int64_t block, int64_t r, float d, float dmin) noexcept {
  d_[at(block, r)] = d;
  dmin_[at(block, r)] = dmin;
  for (int64_t g = block * form_.segments(); g < (block + 1) * form_.segments(); ++g) {
    scales_[at(g, r)] = d * static_cast<float>(integers_[at(g, r)]);
    if (form_.minima) minima_[at(g, r)] = -(dmin * static_cast<float>(minimum_integers_[at(g, r)]));
  }
}

void TileScales::store(BlockFields& fields) const noexcept {
  for (int64_t r = 0; r < rows_; ++r) {
    for (int64_t b = 0; b < blocks_; ++b) {
      const auto to = static_cast<size_t>((row_ + r) * blocks_ + b);
      fields.d[to] = f32_to_f16(d_[at(b, r)]);
      if (form_.minima) fields.m[to] = f32_to_f16(dmin_[at(b, r)]);
    }
    for (int64_t g = 0; form_.scales() && g < segments_; ++g) {
      const auto to = static_cast<size_t>((row_ + r) * segments_ + g);
      fields.scales[to] = static_cast<int8_t>(integers_[at(g, r)]);
      if (form_.minima) fields.minima[to] = static_cast<uint8_t>(minimum_integers_[at(g, r)]);
    }
  }
}

BlockFields choose_block_scales(const Matrix& weight, const DampedGram& h, const BlockForm& form,
                                const std::vector<SegmentFactor>& factors) {
  const int64_t k = weight.cols();
  const int64_t blocks = k / form.block;
  const int64_t segments = form.segments();
  const BlockNumbers numbers(form);
  BlockFields fields(form, weight.rows() * blocks);
  parallel_for((weight.rows() + kLaneRows - 1) / kLaneRows, [&](int64_t tile) {
    const int64_t row = tile * kLaneRows;
    const int64_t rows = std::min(kLaneRows, weight.rows() - row);
    TileScales scales(form, fields, k, row, rows);
    SegmentTrial trial(form, numbers);
    Candidates candidates(form, numbers);
    std::vector<float> target(static_cast<size_t>(form.segment * kLaneRows));
    std::array<std::array<float, kLaneRows>, 16> best_scale{};
    std::array<std::array<float, kLaneRows>, 16> best_minimum{};
    std::array<float, 16> curvature{};
    for (int64_t b = 0; b < blocks; ++b) {
      for (int64_t s = 0; s < segments; ++s) {
        const int64_t g = b * segments + s;
        const auto slot = static_cast<size_t>(s);
        curvature[slot] = 0;
        for (int64_t j = 0; j < form.segment; ++j) {
          curvature[slot] += h.diagonal(g * form.segment + j);
          for (int64_t r = 0; r < rows; ++r)
            target[static_cast<size_t>(j * kLaneRows + r)] = weight(row + r, g * form.segment + j);
        }
        trial.start(factors[static_cast<size_t>(g)], target.data());
        candidates.measure(target.data());
        std::array<float, kLaneRows> scale{};
        std::array<float, kLaneRows> minimum{};
        std::array<float, kLaneRows> loss{};
        std::array<float, kLaneRows> least{};
        for (int i = 0; i < candidates.count(); ++i) {
          candidates.make(i, scale.data(), minimum.data());
          for (int64_t r = 0; !form.scales() && r < kLaneRows; ++r) {
            scale[static_cast<size_t>(r)] = scales.nearest_scale(g, r, scale[static_cast<size_t>(r)]).value;
            minimum[static_cast<size_t>(r)] = scales.nearest_minimum(g, r, minimum[static_cast<size_t>(r)]).value;
          }
          trial.round(scale.data(), minimum.data(), loss.data());
          for (size_t r = 0; r < kLaneRows; ++r) {
            if (i > 0 && !(loss[r] < least[r])) continue;
            least[r] = loss[r];
            best_scale[slot][r] = scale[r];
            best_minimum[slot][r] = minimum[r];
          }
        }
      }
      for (int64_t r = 0; r < rows; ++r) {
        const auto lane = static_cast<size_t>(r);
        if (!form.scales()) {
          scales.set(b, r, {best_scale[0][lane], 0}, {best_minimum[0][lane], 0});
          continue;
        }
        std::array<float, 16> wanted{};
        std::array<float, 16> below{};
        for (size_t s = 0; s < static_cast<size_t>(segments); ++s) {
          wanted[s] = best_scale[s][lane];
          below[s] = -best_minimum[s][lane];
        }
        const Multiples d =
            nearest_multiples(wanted.data(), curvature.data(), segments, form.least_scale, form.largest_scale);
        Multiples dmin;
        if (form.minima) dmin = nearest_multiples(below.data(), curvature.data(), segments, 0, kLargestBlockMinimum);
        for (int64_t s = 0; s < segments; ++s) {
          const auto slot = static_cast<size_t>(s);
          scales.set(b * segments + s, r, {0, d.integers[slot]}, {0, dmin.integers[slot]});
        }
        scales.set_block(b, r, d.d, dmin.d);
      }
    }
    scales.store(fields);
  });
  return fields;
}

}  // namespace metal_marlin

#include "quantize/blocks/choose_scales.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/threads.h"
#include "quantize/blocks/block_scales.h"

namespace metal_marlin {
namespace {

using Lanes = std::array<float, kLaneRows>;

constexpr int kRefits = 3;
constexpr size_t kMostSegments = 16;  // of a block

// d and the integers of a block, for which d integer is nearest to the wanted numbers.
struct Multiples {
  float d = 0;
  std::array<int, kMostSegments> integers{};
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
    for (size_t r = 0; r < kLaneRows; ++r) {
      low_[r] = std::clamp(low_[r], -kBeyond, kBeyond);
      high_[r] = std::clamp(high_[r], -kBeyond, kBeyond);
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
  static constexpr int kShrinks = 15;      // 1.03, 1, .. 0.61 of the range: what is on a grid already finds it again
  static constexpr int kShifts = 3;        // of the minimum, by a third of a step
  static constexpr float kBeyond = 1e30f;  // what f16 scales can hold by far; no difference of two overflows
  static constexpr int kFactors = 25;      // 1.1, 1.075 .. 0.5 of the largest weight

  const BlockForm& form_;
  const BlockNumbers& numbers_;
  std::array<float, kLaneRows> low_;
  std::array<float, kLaneRows> high_;
};

// The search in one segment of kLaneRows rows.
class Search {
 public:
  Search(const DampedGram& h, const BlockForm& form, const BlockNumbers& numbers)
      : h_(h), form_(form), numbers_(numbers), trial_(form, numbers), candidates_(form, numbers) {}

  // target [segment][kLaneRows] of the columns from `first` on. `scale` and `minimum` become the best.
  void run(int64_t first, const SegmentFactor& factor, const float* target, Lanes& scale, Lanes& minimum) {
    scale_ = &scale;
    minimum_ = &minimum;
    trial_.start(factor, target);
    candidates_.measure(target);
    for (int i = 0; i < candidates_.count(); ++i) {
      candidates_.make(i, tried_scale_.data(), tried_minimum_.data());
      offer(i == 0);
    }
    std::array<uint8_t, kLaneRows> all;
    all.fill(1);
    for (int i = 0; i < kRefits; ++i) {
      trial_.kept_numbers(all.data(), by_scale_.data());
      if (!refit(first, !factor.feedback(), target)) break;
    }
  }

 private:
  static constexpr size_t kSize = static_cast<size_t>(kLargestSegment * kLaneRows);

  // Rounds with the numbers tried, as they can be stored. True where that is better than before for any row.
  bool offer(bool first) {
    for (size_t r = 0; r < kLaneRows; ++r) {
      if (!form_.scales()) {
        tried_scale_[r] = nearest_f16(tried_scale_[r]);
        if (form_.minima) tried_minimum_[r] = nearest_f16(tried_minimum_[r]);
        continue;
      }
      if (form_.least_scale >= 0) tried_scale_[r] = std::max(tried_scale_[r], 0.0f);
      if (form_.minima) tried_minimum_[r] = std::min(tried_minimum_[r], 0.0f);
    }
    trial_.round(tried_scale_.data(), tried_minimum_.data(), loss_.data());
    std::array<uint8_t, kLaneRows> take;
    bool any = false;
    for (size_t r = 0; r < kLaneRows; ++r) {
      const bool better = first || loss_[r] < least_[r];
      take[r] = better ? 1 : 0;
      any = any || better;
      least_[r] = better ? loss_[r] : least_[r];
      (*scale_)[r] = better ? tried_scale_[r] : (*scale_)[r];
      (*minimum_)[r] = better ? tried_minimum_[r] : (*minimum_)[r];
    }
    if (any) trial_.keep(take.data());
    return any;
  }

  bool refit(int64_t first, bool diagonal, const float* target) {
    const auto size = static_cast<size_t>(form_.segment * kLaneRows);
    for (size_t i = 0; i < size; ++i) {
      by_scale_[i] -= numbers_.zero;
      const size_t r = i % kLaneRows;
      error_[i] = target[i] - (by_scale_[i] * (*scale_)[r] + (form_.minima ? (*minimum_)[r] : 0.0f));
    }
    times_h(h_, first, form_.segment, diagonal, error_.data(), residual_.data());
    times_h(h_, first, form_.segment, diagonal, by_scale_.data(), h_by_scale_.data());
    const float* by_minimum = nullptr;
    if (form_.minima) {
      std::fill_n(error_.begin(), size, 1.0f);
      by_minimum = error_.data();
      times_h(h_, first, form_.segment, diagonal, by_minimum, h_by_minimum_.data());
    }
    const NormalEquations n(form_.segment, by_scale_.data(), h_by_scale_.data(), by_minimum, h_by_minimum_.data(),
                            residual_.data());
    for (size_t r = 0; r < kLaneRows; ++r) {
      const float ds = n.scale_change(static_cast<int64_t>(r));
      tried_scale_[r] = (*scale_)[r] + ds;
      tried_minimum_[r] = form_.minima ? (*minimum_)[r] + n.minimum_change(static_cast<int64_t>(r), ds) : 0.0f;
    }
    return offer(false);
  }

  const DampedGram& h_;
  const BlockForm& form_;
  const BlockNumbers& numbers_;
  SegmentTrial trial_;
  Candidates candidates_;
  Lanes* scale_ = nullptr;
  Lanes* minimum_ = nullptr;
  Lanes tried_scale_{};
  Lanes tried_minimum_{};
  Lanes loss_{};
  Lanes least_{};
  std::array<float, kSize> by_scale_{};
  std::array<float, kSize> h_by_scale_;
  std::array<float, kSize> h_by_minimum_;
  std::array<float, kSize> error_;
  std::array<float, kSize> residual_;
};

}  // namespace

BlockFields choose_scales(const Matrix& weight, const DampedGram& h, const BlockForm& form,
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
    Search search(h, form, numbers);
    std::vector<float> target(static_cast<size_t>(form.segment * kLaneRows));
    std::array<Lanes, kMostSegments> scale{};
    std::array<Lanes, kMostSegments> minimum{};
    std::array<float, kMostSegments> weights{};
    for (int64_t b = 0; b < blocks; ++b) {
      for (int64_t s = 0; s < segments; ++s) {
        const int64_t g = b * segments + s;
        const auto slot = static_cast<size_t>(s);
        weights[slot] = 0;
        for (int64_t j = 0; j < form.segment; ++j) {
          weights[slot] += h.diagonal(g * form.segment + j);
          for (int64_t r = 0; r < rows; ++r)
            target[static_cast<size_t>(j * kLaneRows + r)] = weight(row + r, g * form.segment + j);
        }
        search.run(g * form.segment, factors[static_cast<size_t>(g)], target.data(), scale[slot], minimum[slot]);
      }
      for (int64_t r = 0; r < rows; ++r) {
        const auto lane = static_cast<size_t>(r);
        if (!form.scales()) {
          scales.set(b, r, {scale[0][lane], 0}, {minimum[0][lane], 0});
          continue;
        }
        std::array<float, kMostSegments> wanted{};
        std::array<float, kMostSegments> below{};
        for (size_t s = 0; s < static_cast<size_t>(segments); ++s) {
          wanted[s] = scale[s][lane];
          below[s] = -minimum[s][lane];
        }
        const Multiples d =
            nearest_multiples(wanted.data(), weights.data(), segments, form.least_scale, form.largest_scale);
        Multiples dmin;
        if (form.minima) dmin = nearest_multiples(below.data(), weights.data(), segments, 0, kLargestBlockMinimum);
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

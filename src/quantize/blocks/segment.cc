#include "quantize/blocks/segment.h"

#include <algorithm>
#include <cmath>

#include "core/threads.h"
#include "kernels/linear_algebra.h"
#include "quantize/rounding/gptq_factor.h"

namespace metal_marlin {
namespace {

LevelSteps steps_of_levels() noexcept {
  LevelSteps steps{};
  for (size_t i = 0; i < kBlockLevels.size(); ++i) steps.levels[i] = kBlockLevels[i];
  for (size_t i = 0; i + 1 < kBlockLevels.size(); ++i) steps.middles[i] = (steps.levels[i] + steps.levels[i + 1]) / 2;
  return steps;
}

}  // namespace

BlockNumbers::BlockNumbers(const BlockForm& form)
    : zero(static_cast<float>(form.zero)),
      top(static_cast<float>((1 << form.bits) - 1)),
      longer(zero),
      shorter(top - zero + 0.5f),
      levels(nullptr) {
  if (!form.levels) return;
  static const LevelSteps steps = steps_of_levels();
  levels = &steps;
  longer = -steps.levels[0];
  shorter = steps.levels[15];
}

uint8_t BlockNumbers::code(float number) const noexcept {
  if (levels == nullptr) return static_cast<uint8_t>(number > 0 ? number : 0);  // NaN: 0
  uint8_t place = 0;
  for (const float middle : levels->middles) place = static_cast<uint8_t>(place + (number > middle ? 1 : 0));
  return place;
}

std::vector<SegmentFactor> make_segment_factors(const DampedGram& h, int64_t width, bool feedback) {
  std::vector<SegmentFactor> factors(static_cast<size_t>(h.gram.rows() / width));
  parallel_for(std::ssize(factors), [&](int64_t g) {
    SegmentFactor& f = factors[static_cast<size_t>(g)];
    const int64_t first = g * width;
    f.u.assign(static_cast<size_t>(width * width), 0.0f);
    f.inverse_pivot.resize(static_cast<size_t>(width));
    f.order.resize(static_cast<size_t>(width));
    if (!feedback) {
      for (int64_t k = 0; k < width; ++k) {
        f.order[static_cast<size_t>(k)] = static_cast<int32_t>(k);
        f.inverse_pivot[static_cast<size_t>(k)] = std::sqrt(h.diagonal(first + k));
      }
      return;
    }
    Matrix block(width, width);
    for (int64_t k = 0; k < width; ++k) {
      for (int64_t l = 0; l < width; ++l) block(k, l) = h.gram(first + k, first + l);
      block(k, k) = h.diagonal(first + k);
    }
    const GptqFactor factor = make_gptq_factor(block, {.act_order = true, .damping = 0});
    f.order = factor.order;
    f.inverse.assign(f.u.size(), 0.0f);
    for (int64_t j = 0; j < width; ++j) {
      for (int64_t i = 0; i < j; ++i) f.u[static_cast<size_t>(j * width + i)] = factor.upper(i, j);
      f.inverse_pivot[static_cast<size_t>(j)] = 1.0f / factor.upper(j, j);
      for (int64_t l = 0; l < width; ++l) {
        double sum = 0;
        for (int64_t i = 0; i <= std::min(j, l); ++i)
          sum += static_cast<double>(factor.upper(i, j)) * factor.upper(i, l);
        f.inverse[static_cast<size_t>(f.order[static_cast<size_t>(j)] * width + f.order[static_cast<size_t>(l)])] =
            static_cast<float>(sum);
      }
    }
  });
  return factors;
}

void times_h(const DampedGram& h, int64_t first, int64_t width, bool diagonal, const float* in, float* out) noexcept {
  if (!diagonal) {
    const int64_t k = h.gram.cols();
    sgemm_tile(false, false, width, kLaneRows, width, 1.0f, h.gram.data() + first * k + first, k, in, kLaneRows, 0.0f,
               out, kLaneRows);
  }
  for (int64_t j = 0; j < width; ++j) {
    const float factor = diagonal ? h.diagonal(first + j) : h.extra[static_cast<size_t>(first + j)];
    for (int64_t i = j * kLaneRows; i < (j + 1) * kLaneRows; ++i) out[i] = (diagonal ? 0.0f : out[i]) + factor * in[i];
  }
}

NormalEquations::NormalEquations(int64_t width, const float* by_scale, const float* h_by_scale, const float* by_minimum,
                                 const float* h_by_minimum, const float* residual) noexcept {
  for (int64_t i = 0; i < width * kLaneRows; i += kLaneRows) {
    for (size_t r = 0; r < kLaneRows; ++r) {
      const auto at = static_cast<size_t>(i) + r;
      ss_[r] += h_by_scale[at] * by_scale[at];
      s_[r] += residual[at] * by_scale[at];
    }
  }
  if (by_minimum == nullptr) return;
  for (int64_t i = 0; i < width * kLaneRows; i += kLaneRows) {
    for (size_t r = 0; r < kLaneRows; ++r) {
      const auto at = static_cast<size_t>(i) + r;
      sm_[r] += h_by_scale[at] * by_minimum[at];
      mm_[r] += h_by_minimum[at] * by_minimum[at];
      m_[r] += residual[at] * by_minimum[at];
    }
  }
}

float NormalEquations::scale_change(int64_t row) const noexcept {
  const auto r = static_cast<size_t>(row);
  const double ss = ss_[r];
  const double sm = sm_[r];
  const double mm = mm_[r];
  if (!(mm > 0)) return ss > 0 ? static_cast<float>(s_[r] / ss) : 0.0f;
  constexpr double kSingular = 1e-6;  // codes that are all the same: the minimum does what the scale would
  const double determinant = ss * mm - sm * sm;
  if (!(determinant > kSingular * ss * mm)) return 0;
  return static_cast<float>((s_[r] * mm - m_[r] * sm) / determinant);
}

float NormalEquations::minimum_change(int64_t row, float scale_change) const noexcept {
  const auto r = static_cast<size_t>(row);
  return mm_[r] > 0 ? (m_[r] - sm_[r] * scale_change) / mm_[r] : 0.0f;
}

float NormalEquations::loss_change(int64_t row, float ds, float dm) const noexcept {
  const auto r = static_cast<size_t>(row);
  return ds * (ds * ss_[r] + 2 * (dm * sm_[r] - s_[r])) + dm * (dm * mm_[r] - 2 * m_[r]);
}

SegmentTrial::SegmentTrial(const BlockForm& form, const BlockNumbers& numbers)
    : numbers_(numbers), width_(form.segment), minima_(form.minima) {
  zeros_.fill(numbers.zero);
  scale_of_.fill(divisors_.data());
  zero_of_.fill(zeros_.data());
}

void SegmentTrial::start(const SegmentFactor& factor, const float* target) noexcept {
  factor_ = &factor;
  for (int64_t j = 0; j < width_; ++j)
    std::copy_n(target + factor.order[static_cast<size_t>(j)] * kLaneRows, kLaneRows, target_.data() + j * kLaneRows);
}

void SegmentTrial::round(const float* scales, const float* minima, float* loss) noexcept {
  for (int64_t r = 0; r < kLaneRows; ++r) divisors_[static_cast<size_t>(r)] = divisor(scales[r]);
  const float* from = target_.data();
  if (minima_) {
    for (int64_t j = 0; j < width_; ++j) {
      for (int64_t r = 0; r < kLaneRows; ++r)
        shifted_[static_cast<size_t>(j * kLaneRows + r)] = from[j * kLaneRows + r] - minima[r];
    }
    from = shifted_.data();
  }
  if (numbers_.levels != nullptr) {
    gptq_block_levels(from, width_, factor_->u.data(), factor_->inverse_pivot.data(), scale_of_.data(),
                      *numbers_.levels, codes_.data(), errors_.data());
  } else {
    gptq_block(from, width_, factor_->u.data(), factor_->inverse_pivot.data(), scale_of_.data(), zero_of_.data(),
               numbers_.top, codes_.data(), errors_.data());
  }
  std::fill_n(loss, kLaneRows, 0.0f);
  for (int64_t j = 0; j < width_; ++j) {
    const float* e = errors_.data() + j * kLaneRows;
    for (int64_t r = 0; r < kLaneRows; ++r) loss[r] += e[r] * e[r];
  }
}

void SegmentTrial::keep(const uint8_t* take) noexcept {
  for (int64_t j = 0; j < width_; ++j) {
    for (int64_t r = 0; r < kLaneRows; ++r) {
      const auto at = static_cast<size_t>(j * kLaneRows + r);
      kept_[at] = take[r] != 0 ? codes_[at] : kept_[at];
    }
  }
}

void SegmentTrial::kept_numbers(const uint8_t* take, float* numbers) const noexcept {
  for (int64_t j = 0; j < width_; ++j) {
    float* to = numbers + factor_->order[static_cast<size_t>(j)] * kLaneRows;
    const uint8_t* from = kept_.data() + j * kLaneRows;
    for (int64_t r = 0; r < kLaneRows; ++r) to[r] = take[r] != 0 ? numbers_.number(from[r]) : to[r];
  }
}

}  // namespace metal_marlin

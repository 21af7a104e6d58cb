#include "quantize/blocks/refine_blocks.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "core/threads.h"
#include "kernels/linear_algebra.h"
#include "quantize/blocks/block_scales.h"

namespace metal_marlin {
namespace {

using Lanes = std::array<float, kLaneRows>;

// The share of a segment's loss for which its codes are replaced: above what float32 confuses.
constexpr float kLeastGain = 1e-5f;
// Steps between the scales that are tried, as a share of the scale. With integers a step is at least one of them.
constexpr float kStep = 0.03f;
constexpr float kIntegerStep = 0.015f;

// kLaneRows rows, column beside column: value [k][row].
class Tile {
 public:
  Tile(const Matrix& weight, const DampedGram& h, const BlockForm& form, const BlockNumbers& numbers,
       const std::vector<SegmentFactor>& factors, BlockFields& fields, int64_t row)
      : h_(h),
        form_(form),
        numbers_(numbers),
        factors_(factors),
        fields_(fields),
        row_(row),
        rows_(std::min(kLaneRows, weight.rows() - row)),
        k_(weight.cols()),
        width_(form.segment),
        window_(form.scales() ? form.block : std::min(k_, kWindow)),
        scales_(form, fields, k_, row, rows_),
        trial_(form, numbers) {
    weight_.assign(static_cast<size_t>(k_ * kLaneRows), 0.0f);
    number_.assign(weight_.size(), numbers.zero);
    residual_.resize(weight_.size());
    error_.resize(weight_.size());
    for (int64_t r = 0; r < rows_; ++r) {
      const float* from = weight.row(row + r).data();
      const uint8_t* codes = fields.codes.data() + (row + r) * k_;
      for (int64_t k = 0; k < k_; ++k) {
        weight_[at(k, r)] = from[k];
        number_[at(k, r)] = numbers.number(codes[k]);
      }
    }
    const auto window = static_cast<size_t>(window_ * kLaneRows);
    before_.resize(window);
    change_.resize(window);
    first_.resize(window);
    second_.resize(window);
    product_.resize(window);
    other_product_.resize(window);
  }

  void pass() {
    make_residual();
    for (int64_t start = 0; start < k_; start += window_) {
      const int64_t width = std::min(window_, k_ - start);
      copy_values(start, width, before_.data());
      for (int64_t first = start; first < start + width; first += width_) improve_segment(first, start, width);
      if (form_.scales()) refit_block(start, width);
      // The residual of the window follows its changes at once, that of all other columns here.
      copy_values(start, width, change_.data());
      for (size_t i = 0; i < static_cast<size_t>(width * kLaneRows); ++i) change_[i] -= before_[i];
      subtract_product(0, start, start, width, change_.data());
      subtract_product(start + width, k_ - start - width, start, width, change_.data());
    }
  }

  void store() const {
    for (int64_t r = 0; r < rows_; ++r) {
      uint8_t* to = fields_.codes.data() + (row_ + r) * k_;
      for (int64_t k = 0; k < k_; ++k) to[k] = numbers_.code(number_[at(k, r)]);
    }
    scales_.store(fields_);
  }

 private:
  static constexpr int64_t kWindow = 256;
  static constexpr size_t kSegment = static_cast<size_t>(kLargestSegment * kLaneRows);

  static size_t at(int64_t k, int64_t r) noexcept { return static_cast<size_t>(k * kLaneRows + r); }

  // out [count][kLaneRows]: the values of columns from `first` on.
  void copy_values(int64_t first, int64_t count, float* out) const noexcept {
    for (int64_t k = 0; k < count; ++k) {
      const float* scale = scales_.scales((first + k) / width_);
      const float* minimum = scales_.minima((first + k) / width_);
      const float* number = number_.data() + (first + k) * kLaneRows;
      for (int64_t r = 0; r < kLaneRows; ++r)
        out[k * kLaneRows + r] = scale[r] * (number[r] - numbers_.zero) + minimum[r];
    }
  }

  // R = (W - Wq) H.
  void make_residual() {
    copy_values(0, k_, error_.data());
    for (int64_t k = 0; k < k_; ++k) {
      const float extra = h_.extra[static_cast<size_t>(k)];
      for (int64_t r = 0; r < kLaneRows; ++r) {
        error_[at(k, r)] = weight_[at(k, r)] - error_[at(k, r)];
        residual_[at(k, r)] = error_[at(k, r)] * extra;
      }
    }
    sgemm_tile(false, false, k_, kLaneRows, k_, 1.0f, h_.gram.data(), k_, error_.data(), kLaneRows, 1.0f,
               residual_.data(), kLaneRows);
  }

  // residual of columns to .. to + count - 1, less H change, for changes of the values of columns from ..
  void subtract_product(int64_t to, int64_t count, int64_t from, int64_t width, const float* change) noexcept {
    if (count == 0) return;
    sgemm_tile(false, false, count, kLaneRows, width, -1.0f, h_.gram.data() + to * k_ + from, k_, change, kLaneRows,
               1.0f, residual_.data() + to * kLaneRows, kLaneRows);
    for (int64_t k = std::max(to, from); k < std::min(to + count, from + width); ++k) {
      const float extra = h_.extra[static_cast<size_t>(k)];
      for (int64_t r = 0; r < kLaneRows; ++r) residual_[at(k, r)] -= extra * change[(k - from) * kLaneRows + r];
    }
  }

  void improve_segment(int64_t first, int64_t start, int64_t width) {
    std::array<float, kSegment> old;
    std::array<float, kSegment> now;
    copy_values(first, width_, old.data());
    round_anew(first, old);
    copy_values(first, width_, now.data());
    follow(first, old, now);
    refit_segment(first);
    copy_values(first, width_, now.data());
    follow(first, old, now);
    descend(first);
    copy_values(first, width_, now.data());
    for (size_t i = 0; i < static_cast<size_t>(width_ * kLaneRows); ++i) now[i] -= start_[i];
    // The segment's own residual has followed.
    subtract_product(start, first - start, first, width_, now.data());
    subtract_product(first + width_, start + width - first - width_, first, width_, now.data());
  }

  // Brings the residual of the segment from the values `old` to `now`, which become `old`.
  void follow(int64_t first, std::array<float, kSegment>& old, const std::array<float, kSegment>& now) noexcept {
    std::array<float, kSegment> change;
    for (size_t i = 0; i < static_cast<size_t>(width_ * kLaneRows); ++i) change[i] = now[i] - old[i];
    subtract_product(first, width_, first, width_, change.data());
    old = now;
  }

  void round_anew(int64_t first, const std::array<float, kSegment>& old) {
    start_ = old;
    const int64_t g = first / width_;
    const SegmentFactor& factor = factors_[static_cast<size_t>(g)];
    const float* residual = residual_.data() + first * kLaneRows;
    std::array<float, kSegment> target;
    sgemm_tile(false, false, width_, kLaneRows, width_, 1.0f, factor.inverse.data(), width_, residual, kLaneRows, 0.0f,
               target.data(), kLaneRows);
    Lanes least{};
    for (int64_t j = 0; j < width_; ++j) {
      for (int64_t r = 0; r < kLaneRows; ++r) {
        least[static_cast<size_t>(r)] += target[at(j, r)] * residual[j * kLaneRows + r];
        target[at(j, r)] += old[at(j, r)];
      }
    }
    for (float& loss : least) loss -= kLeastGain * std::fabs(loss);
    trial_.start(factor, target.data());
    const int shifts = form_.minima ? 1 : 0;
    std::array<Stored, kLaneRows> best_scale;
    std::array<Stored, kLaneRows> best_minimum;
    std::array<uint8_t, kLaneRows> improved{};
    std::array<uint8_t, kLaneRows> take;
    std::array<Stored, kLaneRows> scale;
    std::array<Stored, kLaneRows> minimum;
    Lanes tried_scales;
    Lanes tried_minima;
    Lanes loss;
    for (int step = -kSteps; step <= kSteps; ++step) {
      for (int shift = -shifts; shift <= shifts; ++shift) {
        for (int64_t r = 0; r < kLaneRows; ++r) {
          const auto lane = static_cast<size_t>(r);
          make_candidate(g, r, step, shift, scale[lane], minimum[lane]);
          tried_scales[lane] = scale[lane].value;
          tried_minima[lane] = minimum[lane].value;
        }
        trial_.round(tried_scales.data(), tried_minima.data(), loss.data());
        bool any = false;
        for (size_t r = 0; r < kLaneRows; ++r) {
          take[r] = loss[r] < least[r] ? 1 : 0;
          if (take[r] == 0) continue;
          any = true;
          improved[r] = 1;
          least[r] = loss[r];
          best_scale[r] = scale[r];
          best_minimum[r] = minimum[r];
        }
        if (any) trial_.keep(take.data());
      }
    }
    for (int64_t r = 0; r < kLaneRows; ++r) {
      const auto lane = static_cast<size_t>(r);
      if (improved[lane] != 0) scales_.set(g, r, best_scale[lane], best_minimum[lane]);
    }
    trial_.kept_numbers(improved.data(), number_.data() + first * kLaneRows);
  }

  void make_candidate(int64_t g, int64_t r, int step, int shift, Stored& scale, Stored& minimum) const noexcept {
    const float now = scales_.scales(g)[r];
    const float low = scales_.minima(g)[r];
    float by = (form_.scales() ? kIntegerStep : kStep) * std::fabs(now);
    if (form_.scales()) by = std::max(by, std::fabs(scales_.d(g / form_.segments(), r)));
    scale = scales_.nearest_scale(g, r, now + static_cast<float>(step) * by);
    if (!form_.minima) return;
    // The middle of the range stays, but for the shift.
    float wanted = low + (now - scale.value) * 0.5f * numbers_.top;
    float third = std::fabs(now) / 3;
    if (form_.scales()) third = std::max(third, std::fabs(scales_.dmin(g / form_.segments(), r)));
    wanted += static_cast<float>(shift) * third;
    minimum = scales_.nearest_minimum(g, r, wanted);
  }

  // For first_ and, where there are minima, second_: the changes of the values for one unit.
  NormalEquations normal_equations(int64_t first, int64_t width) noexcept {
    const float* by_minimum = form_.minima ? second_.data() : nullptr;
    times_h(h_, first, width, false, first_.data(), product_.data());
    if (form_.minima) times_h(h_, first, width, false, by_minimum, other_product_.data());
    return {width,      first_.data(),         product_.data(),
            by_minimum, other_product_.data(), residual_.data() + first * kLaneRows};
  }

  void refit_segment(int64_t first) {
    const int64_t g = first / width_;
    for (int64_t k = 0; k < width_; ++k) {
      for (int64_t r = 0; r < kLaneRows; ++r) first_[at(k, r)] = number_[at(first + k, r)] - numbers_.zero;
    }
    if (form_.minima) std::fill_n(second_.begin(), width_ * kLaneRows, 1.0f);
    const NormalEquations n = normal_equations(first, width_);
    for (int64_t r = 0; r < kLaneRows; ++r) {
      const float scale = scales_.scales(g)[r];
      const float minimum = scales_.minima(g)[r];
      const Stored new_scale = scales_.nearest_scale(g, r, scale + n.scale_change(r));
      const float ds = new_scale.value - scale;
      const Stored new_minimum = scales_.nearest_minimum(g, r, minimum + n.minimum_change(r, ds));
      if (n.loss_change(r, ds, new_minimum.value - minimum) < 0) scales_.set(g, r, new_scale, new_minimum);
    }
  }

  void refit_block(int64_t start, int64_t width) {
    const int64_t b = start / form_.block;
    for (int64_t k = 0; k < width; ++k) {
      const int64_t g = (start + k) / width_;
      for (int64_t r = 0; r < kLaneRows; ++r) {
        first_[at(k, r)] =
            static_cast<float>(scales_.scale_integer(g, r)) * (number_[at(start + k, r)] - numbers_.zero);
        second_[at(k, r)] = -static_cast<float>(scales_.minimum_integer(g, r));
      }
    }
    copy_values(start, width, change_.data());
    const NormalEquations n = normal_equations(start, width);
    for (int64_t r = 0; r < kLaneRows; ++r) {
      const float d = scales_.d(b, r);
      const float dmin = scales_.dmin(b, r);
      const float new_d = nearest_f16(d + n.scale_change(r));
      const float new_dmin = nearest_f16(dmin + n.minimum_change(r, new_d - d));
      // A d of 0 would keep the integers from ever counting again.
      if (new_d != 0.0f && n.loss_change(r, new_d - d, new_dmin - dmin) < 0) scales_.set_block(b, r, new_d, new_dmin);
    }
    copy_values(start, width, product_.data());
    for (size_t i = 0; i < static_cast<size_t>(width * kLaneRows); ++i) change_[i] = product_[i] - change_[i];
    subtract_product(start, width, start, width, change_.data());
  }

  // One descent over the codes of a segment, as refine() has it.
  void descend(int64_t first) {
    std::array<float, static_cast<size_t>(kLargestSegment * kLargestSegment)> block;
    std::array<float, kLargestSegment> inverse;
    std::array<const float*, kLargestSegment> scales;
    std::array<float, kSegment> step;
    Lanes divisors;
    const float* effective = scales_.scales(first / width_);
    for (size_t r = 0; r < kLaneRows; ++r) divisors[r] = divisor(effective[r]);
    scales.fill(divisors.data());
    for (int64_t j = 0; j < width_; ++j) {
      for (int64_t i = 0; i < j; ++i) block[static_cast<size_t>(j * width_ + i)] = h_.gram(first + j, first + i);
      inverse[static_cast<size_t>(j)] = 1.0f / h_.diagonal(first + j);
    }
    float* numbers = number_.data() + first * kLaneRows;
    const float* residual = residual_.data() + first * kLaneRows;
    if (numbers_.levels != nullptr) {
      descend_block_levels(residual, width_, block.data(), inverse.data(), scales.data(), *numbers_.levels, numbers,
                           step.data());
    } else {
      descend_block(residual, width_, block.data(), inverse.data(), scales.data(), numbers_.top, numbers, step.data());
    }
    subtract_product(first, width_, first, width_, step.data());
  }

  static constexpr int kSteps = 3;  // of the scale, on either side

  const DampedGram& h_;
  const BlockForm& form_;
  const BlockNumbers& numbers_;
  const std::vector<SegmentFactor>& factors_;
  BlockFields& fields_;
  int64_t row_;
  int64_t rows_;
  int64_t k_;
  int64_t width_;   // of a segment
  int64_t window_;  // columns whose residual follows at once: a block, or several small ones
  TileScales scales_;
  SegmentTrial trial_;
  std::vector<float> weight_;
  std::vector<float> number_;
  std::vector<float> error_;
  std::vector<float> residual_;
  // Of a window.
  std::vector<float> before_;
  std::vector<float> change_;
  std::vector<float> first_;
  std::vector<float> second_;
  std::vector<float> product_;
  std::vector<float> other_product_;
  std::array<float, kSegment> start_;  // the values of a segment before it is improved
};

}  // namespace

void refine_blocks(const Matrix& weight, const DampedGram& h, const BlockForm& form,
                   const std::vector<SegmentFactor>& factors, int passes, BlockFields& fields) {
  const BlockNumbers numbers(form);
  parallel_for((weight.rows() + kLaneRows - 1) / kLaneRows, [&](int64_t i) {
    Tile tile(weight, h, form, numbers, factors, fields, i * kLaneRows);
    for (int pass = 0; pass < passes; ++pass) tile.pass();
    tile.store();
  });
}

}  // namespace metal_marlin
